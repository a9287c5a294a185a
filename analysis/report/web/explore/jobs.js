// The jobs of the server as the page knows them, asked for again and again while one of them is on its way.

const SOON = 250;
const LATER = 4000;

const jobs = {
  all: [],
  report: null,
  whole: true,
  // Called with every new state of things.
  listeners: [],
  waiting: new Map(),
  timer: 0,

  async refresh() {
    clearTimeout(this.timer);
    try {
      const { jobs: all, report, whole, ...begin } = await server.all();
      Object.assign(this, { all, report, whole, begin, problem: null });
      this.settle();
    } catch (error) {
      this.problem = error.message;
    }
    for (const listen of this.listeners) listen();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), !this.problem && this.isBusy() ? SOON : LATER);
  },

  isBusy() {
    return [...this.all, ...(this.report ? [this.report] : [])].some((job) => this.goesOn(job));
  },

  goesOn(job) {
    return job.state === "queued" || job.state === "running";
  },

  // Asks for something; gives its result, or fails with what is wrong in a sentence.
  async run(kind, asked) {
    const job = await server.add(kind, asked);
    const result = this.follow(job.id);
    this.refresh();
    return result;
  },

  // What comes of a job that is on its way, as `run` gives it.
  follow(id) {
    if (!this.waiting.has(id)) {
      const waits = {};
      waits.promise = new Promise((done, fail) => Object.assign(waits, { done, fail }));
      this.waiting.set(id, waits);
    }
    return this.waiting.get(id).promise;
  },

  settle() {
    for (const [id, { done, fail }] of this.waiting) {
      const job = this.all.find((each) => each.id === id);
      if (job && this.goesOn(job)) continue;
      this.waiting.delete(id);
      if (job?.state === "done") server.result(id).then((result) => done({ job, result }), fail);
      else fail(new Error(job?.state === "failed" ? job.message : "Cancelled."));
    }
  },

  async remove(id) {
    await server.remove(id).catch(() => {});
    return this.refresh();
  },
};
