// What the target does in the model without the nodes of a supernode together: measured when it is looked at.

// Milliseconds, so that going through nodes asks for nothing.
const LOOKED_AT = 400;

const groupMeasures = {
  // By the job that measured.
  known: new Map(),

  // The job that takes away exactly these nodes of the graph that was asked for so, if there is one.
  job(asked, changes) {
    const ids = (list) => list.map(({ node }) => node).sort().join("\n");
    const isSame = (other) =>
      ["prompt", "target", "max_nodes"].every((name) => other[name] === asked[name]) &&
      other.changes.every(({ factor }) => factor === 0) && ids(other.changes) === ids(changes);
    return jobs.all.find(({ kind, state, arguments: other }) => kind === "intervene" && (state === "done" || state === "queued" || state === "running") && isSame(other));
  },

  async measure(asked, changes) {
    const job = this.job(asked, changes);
    if (job?.state === "done") return { job, result: await server.result(job.id) };
    return job ? jobs.follow(job.id) : jobs.run("intervene", { ...asked, changes, max_tokens: 0 });
  },

  // Shows it in `place`, as soon as it is known and if somebody looks at it still.
  fill(place, asked, changes) {
    const known = this.known.get(this.job(asked, changes)?.id);
    if (known) return place.replaceChildren(measuredTable(changes, known));
    place.replaceChildren(element("p", { class: "note" }, "What the target does without them together is being measured …"));
    setTimeout(async () => {
      if (!place.isConnected) return;
      try {
        const { job, result } = await this.measure(asked, changes);
        this.known.set(job.id, result);
        place.replaceChildren(measuredTable(changes, result));
      } catch (error) {
        place.replaceChildren(element("p", { class: "note problem" }, error.message));
      }
    }, LOOKED_AT);
  },
};

function measuredTable(changes, { predicted, measured, predicted_held: predictedHeld, measured_held: held, random, random_held: randomHeld }) {
  const what = changes.length > 1 ? `these ${changes.length} nodes together are` : "this node is";
  return nodeChanges({ predicted, free: measured, predictedHeld, held, randomFree: random, randomHeld }, what);
}

nodeExtras.push((graph, node) => {
  const asked = node.members && explorer.asked(graph);
  if (!asked || !isChangeable(graph, node)) return null;
  const place = element("div", { role: "status" });
  groupMeasures.fill(place, asked, changesOf(graph, node, { factor: 0 }));
  return place;
});
