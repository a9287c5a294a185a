// What can be done with a node of a graph, and with a feature: buttons in the details of each.

const MIN_VALUE = 1e-12;

const explorer = {
  bar: null,
  changes: [],

  // What a graph was asked with, where it is one of a prompt.
  asked(graph) {
    return graph.data.asked ?? null;
  },

  // What was changed last, but for some nodes, if it was in this graph.
  others(graph, changes) {
    const own = new Set(changes.map(({ node }) => node));
    return this.changesOf === graph.data ? this.changes.filter(({ node }) => !own.has(node)) : [];
  },

  intervene(graph, changes, together, place) {
    this.changes = [...(together ? this.others(graph, changes) : []), ...changes];
    this.changesOf = graph.data;
    return this.bar.ask("intervene", { ...this.asked(graph), changes: this.changes, ...this.bar.writing() }, place);
  },

  steer(feature, amount, place) {
    return this.bar.ask("steer", { prompt: this.bar.prompt(), feature, amount, ...this.bar.writing() }, place);
  },

  weights(target, place) {
    return this.bar.ask("weights", { target, max_nodes: this.bar.maxNodes() }, place);
  },
};

// A number or a text with a button that does something with it.
function fieldWithButton(label, input, text, act) {
  const form = element("form", { class: "with-field" }, element("label", {}, label, " ", input), element("button", {}, text));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value !== "") act(input.type === "number" ? input.valueAsNumber : input.value);
  });
  return form;
}

function numberField(value) {
  return element("input", { type: "number", step: "any", value: String(Number(value.toPrecision(3))) });
}

const LONGEST_SAID = 300;
const CHANGEABLE = new Set(["feature", "interaction", "eigenvector", "direction", "head", "token", "error"]);

nodeExtras.push((graph, node) => {
  const parts = [];
  const isFeature = node.kind === "feature";
  const place = saysPlace();
  if (explorer.asked(graph) && isChangeable(graph, node)) parts.push(...changeControls(graph, node, place));
  if (isFeature) parts.push(...featureControls(`${node.site}-${node.number}`, node.value ?? 5, place));
  return parts.length ? element("div", { class: "explore-actions" }, ...parts, place) : null;
});

// Where it is said what comes of what was asked here.
function saysPlace() {
  return element("p", { class: "note says" });
}

function isChangeable(graph, node) {
  return node.members?.every(({ kind }) => CHANGEABLE.has(kind)) ?? (node !== graph.target && CHANGEABLE.has(node.kind));
}

// The change of a node, or the changes of a supernode's nodes, with its name.
function changesOf(graph, node, how) {
  const name = node.members ? `${node.name} (${node.members.length} nodes)` : graph.fullName(node);
  const short = [...name].slice(0, LONGEST_SAID).join("");
  return (node.members ?? [node]).map(({ id }) => ({ node: id, name: short, ...how }));
}

function changeControls(graph, node, place) {
  const together = element("input", { type: "checkbox" });
  const change = (how) => explorer.intervene(graph, changesOf(graph, node, how), together.checked, place);
  const others = explorer.others(graph, changesOf(graph, node, {}));
  const value = node.members ? 0 : (node.value ?? 0);
  return [
    element(
      "p",
      { class: "actions" },
      button({}, () => change({ factor: 0 }), "Ablate"),
      button({}, () => change({ factor: 2 }), "Scale × 2"),
      button({}, () => change({ factor: -1 }), "Scale × −1"),
    ),
    Math.abs(value) > MIN_VALUE ? fieldWithButton("Value", numberField(value), "Set", (number) => change({ value: number })) : null,
    node.kind === "feature"
      ? fieldWithButton("Its value on", element("input", { placeholder: "another prompt" }), "Patch", (patch) => change({ patch }))
      : null,
    others.length ? element("label", { class: "note" }, together, ` together with ${changesWords(others)}`) : null,
  ].filter(Boolean);
}

function featureControls(name, amount, place) {
  return [
    element("p", { class: "actions" }, button({}, () => explorer.weights(name, place), "Circuit by weights")),
    fieldWithButton("Times its direction", numberField(amount), "Steer", (times) => explorer.steer(name, times, place)),
  ];
}

featureExtras.push((feature, details) => {
  const { site } = featureData.lists(feature);
  const reached = Math.max(0, ...featureData.contexts(details).map(({ value }) => value));
  const place = saysPlace();
  return element("div", { class: "explore-actions" }, ...featureControls(`${site}-${featureData.number(feature)}`, reached || 5, place), place);
});
