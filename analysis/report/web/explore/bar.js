// The bar above the graphs: a prompt, its target, how large a graph; and below it what was asked.

const TYPED = 350;

class ExploreBar {
  constructor(section) {
    this.prompted = element("textarea", { id: "explore-prompt", rows: "2", spellcheck: "false", autocomplete: "off" });
    this.target = element("select", { id: "explore-target" });
    this.other = element("input", { id: "explore-other", placeholder: "swim - run, fly", "aria-label": "Another target: a token, or A - B, C", hidden: "" });
    this.most = element("input", { id: "explore-nodes", type: "number", min: "2", max: "1000", value: "120" });
    this.length = element("input", { id: "explore-length", type: "number", "aria-label": "Text, in tokens", min: "0", max: "400", value: "40" });
    this.heat = element("input", { id: "explore-temperature", type: "number", min: "0", max: "10", step: "any", value: "0" });
    this.says = element("p", { id: "explore-says", class: "note", role: "status" });
    this.list = element("ol", { id: "explore-jobs", "aria-label": "What was asked" });
    this.panel = element("article", { id: "explore-result", "aria-labelledby": "explore-result-title", hidden: "" });
    section.querySelector("h2").after(this.form(), this.says, this.list);
    this.section = section;
    this.offer([]);
    this.listen();
  }

  form() {
    const field = (label, ...inputs) => element("p", {}, element("label", { for: inputs[0].id }, label), " ", ...inputs);
    const row = (...parts) => element("div", { class: "row" }, ...parts);
    this.sampling = button({}, () => this.ask("sample", { prompt: this.prompt(), ...this.writing() }), "Sample");
    this.made = element(
      "form",
      { id: "explore-bar", "aria-label": "Ask the model" },
      field("Prompt", this.prompted),
      row(field("Target", this.target, this.other), field("Nodes", this.most), element("button", { class: "main" }, "Trace")),
      row(field("Text", this.length, "tokens"), field("Temperature", this.heat), this.sampling),
    );
    return this.made;
  }

  listen() {
    this.made.addEventListener("submit", (event) => {
      event.preventDefault();
      this.trace();
    });
    this.prompted.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.trace();
    });
    this.prompted.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.findTokens(), TYPED);
    });
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.toGraph();
    });
    this.target.addEventListener("change", () => {
      this.other.hidden = this.target.value !== "other";
      if (!this.other.hidden) this.other.focus();
    });
  }

  prompt() {
    return this.prompted.value;
  }

  maxNodes() {
    return Math.round(this.most.valueAsNumber) || 120;
  }

  // How texts are written.
  writing() {
    return { max_tokens: Math.round(this.length.valueAsNumber) || 0, temperature: this.heat.valueAsNumber || 0 };
  }

  begin(prompt) {
    if (this.prompted.value || !prompt) return;
    this.prompted.value = prompt;
    this.findTokens();
  }

  // The likeliest next tokens are offered as targets.
  async findTokens() {
    const prompt = this.prompt();
    if (!prompt.trim()) return this.offer([]);
    try {
      const { job, result } = await jobs.run("tokens", { prompt });
      server.remove(job.id).catch(() => {});
      if (prompt !== this.prompt()) return;
      this.offer(result.tokens);
      this.tell(`${result.n_tokens} of at most ${result.n_ctx} tokens.`);
    } catch (error) {
      if (prompt === this.prompt()) this.tell(error.message, true);
    }
  }

  offer(tokens) {
    const before = this.target.value;
    const named = tokens.map(({ token, label, probability }) =>
      element("option", { value: String(token) }, `${label} (${percent(probability)})`),
    );
    this.target.replaceChildren(
      element("option", { value: "" }, "the likeliest token"),
      ...named,
      element("option", { value: "other" }, "another …"),
    );
    this.target.value = [...this.target.options].some(({ value }) => value === before) ? before : "";
    this.other.hidden = this.target.value !== "other";
  }

  asked() {
    if (this.target.value === "other") return this.other.value.trim() || null;
    return this.target.value === "" ? null : Number(this.target.value);
  }

  trace() {
    if (!this.prompt().trim()) return this.tell("The prompt is empty; type a few words.", true);
    return this.ask("graph", { prompt: this.prompt(), target: this.asked(), max_nodes: this.maxNodes() });
  }

  // Asks the model, and shows what it answers. Where it was asked from, `place` says what comes of it.
  async ask(kind, asked, place = null, show = (job, result) => this.show(job, result)) {
    this.tell("");
    place?.replaceChildren("Asked …");
    try {
      const { job, result } = await jobs.run(kind, asked);
      place?.replaceChildren();
      show(job, result);
    } catch (error) {
      place?.replaceChildren(element("span", { class: "problem" }, error.message));
      this.tell(error.message, true);
    }
  }

  async open(job, go = true) {
    try {
      this.show(job, await server.result(job.id), go);
    } catch (error) {
      this.tell(error.message, true);
    }
  }

  // Shows what came of a job, and goes there, unless `go` is false.
  show(job, result, go = true) {
    const { stage, article } = graphs.view;
    // Somebody may have gone on to write another prompt.
    const isElsewhere = this.made.contains(document.activeElement) && job.arguments.prompt !== this.prompt();
    article.classList.remove("opened");
    if (!result.graph) {
      // Under the picture, where there is one.
      (stage.hidden ? this.list : stage.querySelector(".graph-columns")).after(this.panel);
      return showResult(this.panel, job, result);
    }
    exploreState.opened(job.id);
    graphs.show(this.graph(job, result));
    if (!go || isElsewhere) return;
    graphs.leave();
    graphs.view.save();
    this.toGraph();
  }

  // Where the address is of a feature's circuit that the page does not have: the circuit, once it is made. What comes
  // of that is said beside the link that one came by.
  followCircuit() {
    const { hash } = location;
    const target = graphAddress.circuit(hash);
    if (target === null || graphs.circuit(target)) return;
    const show = (job, result) => {
      this.graph(job, result);
      exploreState.opened(job.id);
      if (location.hash === hash && graphs.route()) this.toGraph();
    };
    const made = jobs.all.find(({ kind, state, arguments: asked }) => kind === "weights" && state === "done" && asked.target === target);
    if (made) return server.result(made.id).then((result) => show(made, result), (error) => this.tell(error.message, true));
    const link = document.activeElement?.closest("a");
    const place = element("span", { class: "note says", role: "status" });
    if (link?.getAttribute("href") === hash) link.after(" ", place);
    return this.ask("weights", { target, max_nodes: this.maxNodes() }, place, show).then(() => place.childNodes.length || place.remove());
  }

  // The graph of a job, among those of the page.
  graph(job, result) {
    const known = graphs.graphs.find((graph) => graph.data.job === job.id);
    const asked = job.kind === "graph" ? job.arguments : null;
    return known ?? graphs.add({ ...result.graph, job: job.id, asked }, false);
  }

  // Back to the chosen node of the graph.
  toGraph() {
    if (graphs.view.stage.hidden) return;
    graphs.view.close();
    intoView(graphs.view.stage);
  }

  tell(text, isError = false) {
    this.says.textContent = text;
    this.says.classList.toggle("problem", isError);
  }

  // The jobs, the last one first; lines that stay what they were are not made anew, so that focus stays.
  update(all) {
    const shown = all.filter(({ kind }) => kind !== "tokens").reverse();
    const lines = new Map([...this.list.children].map((line) => [line.dataset.id, line]));
    const made = shown.map((job) => {
      const state = JSON.stringify([job.state, job.message, job.progress, jobWords(job)]);
      const old = lines.get(job.id);
      if (old?.dataset.state === state) return old;
      if (old && job.state === "running" && old.dataset.of === "running") {
        old.querySelector(".progress").replaceChildren(progressLine(job));
        old.dataset.state = state;
        return old;
      }
      return this.line(job, state);
    });
    const same = made.length === this.list.childElementCount && made.every((line, i) => line === this.list.children[i]);
    if (same) return;
    const { activeElement } = document;
    const at = [...this.list.children].findIndex((line) => line.contains(activeElement));
    const line = this.list.children[at];
    const isLast = line?.lastElementChild === activeElement;
    this.list.replaceChildren(...made);
    if (at >= 0) this.refocus(made.find((each) => each.dataset.id === line.dataset.id) ?? made[Math.min(at, made.length - 1)], isLast);
  }

  // After lines have been made anew: the focus is in the same one, or where it was.
  refocus(line, isLast) {
    const buttons = line?.querySelectorAll("button") ?? [];
    (buttons[isLast ? buttons.length - 1 : 0] ?? this.prompted).focus({ preventScroll: true });
  }

  line(job, state) {
    const name = jobWords(job);
    const goesOn = jobs.goesOn(job);
    const line = element("li", { "data-id": job.id, "data-state": state, "data-of": job.state });
    const open = () => button({ class: "node-link", "aria-label": `Open ${name}` }, () => this.open(job), name);
    line.append(job.state === "done" ? open() : element("span", {}, name), " ");
    if (goesOn) line.append(element("span", { class: "progress" }, progressLine(job)));
    if (job.state === "failed") line.append(element("span", { class: "note problem" }, job.message));
    if (job.state === "cancelled") line.append(element("span", { class: "note" }, "cancelled"));
    const does = goesOn ? "Cancel" : "Remove";
    line.append(" ", button({ "aria-label": `${does} ${name}` }, () => jobs.remove(job.id), does));
    return line;
  }
}
