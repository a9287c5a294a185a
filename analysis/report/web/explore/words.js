// What was asked, in words.

function shortened(text, length = 40) {
  return text.length > length ? `…${text.slice(1 - length)}` : text;
}

// Nodes have the names that they had on the page; without one, their id in the graph.
function changeWords(change) {
  const name = change.name ?? change.node;
  if (change.factor === 0) return `${name} ablated`;
  if (change.factor !== undefined) return `${name} × ${number(change.factor)}`;
  if (change.value !== undefined) return `${name} = ${number(change.value)}`;
  return `${name} as on “${shortened(change.patch, 24)}”`;
}

// The nodes of a supernode, which have its name and change alike, are said once.
function changesWords(changes) {
  return [...new Set(changes.map(changeWords))].join(", ");
}

// A feature LAYER-POINT-NUMBER by its name, where the page has it or its circuit; other texts as they are.
function featureWords(text) {
  const circuit = graphs.circuit(text);
  if (circuit) return circuit.fullName(circuit.target);
  const [, layer, point, number] = /^(\d+)-([a-z-]+)-(\d+)$/.exec(text) ?? [];
  const feature = point && featureData.find(`#layer-${layer}-${point === "mlp-out" ? "out" : "in"}-${number}`);
  if (!feature || featureData.lists(feature).site !== `${layer}-${point}`) return text;
  return `${featureData.name(feature)}, layer ${layer}`;
}

function targetWords(target) {
  if (target === null) return "the likeliest token";
  return typeof target === "number" ? `token ${target}` : featureWords(target);
}

function jobWords({ kind, arguments: asked }) {
  const on = asked.prompt === undefined ? "" : ` on “${shortened(asked.prompt)}”`;
  if (kind === "graph") return `Graph of ${targetWords(asked.target)}${on}`;
  if (kind === "weights") return `Circuit of ${targetWords(asked.target)} by weights`;
  if (kind === "intervene") return `${changesWords(asked.changes)}${asked.max_tokens ? "" : ", no text,"}${on}`;
  if (kind === "steer") return `Steered by ${number(asked.amount)} × ${featureWords(asked.feature)}${on}`;
  if (kind === "sample") return `Sample${on}`;
  return kind;
}

function progressWords({ what, done, of }) {
  return of ? `${what}, ${done} of ${of}` : what;
}

// How far a job is, drawn and in words.
function progressLine(job) {
  if (job.state === "queued") return element("span", { class: "note" }, "waits");
  const { what = "", done = 0, of = null } = job.progress ?? {};
  const bar = of ? element("progress", { max: of, value: done, "aria-label": what }) : element("progress", { "aria-label": what || "at work" });
  return element("span", { class: "note" }, bar, ` ${progressWords({ what, done, of })}`);
}
