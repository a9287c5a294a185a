// What was asked, in words.

function shortened(text, length = 40) {
  return text.length > length ? `…${text.slice(1 - length)}` : text;
}

function changeWords(change) {
  if (change.factor === 0) return `${change.node} ablated`;
  if (change.factor !== undefined) return `${change.node} × ${number(change.factor)}`;
  if (change.value !== undefined) return `${change.node} = ${number(change.value)}`;
  return `${change.node} as on “${shortened(change.patch, 24)}”`;
}

function targetWords(target) {
  if (target === null) return "the likeliest token";
  return typeof target === "number" ? `token ${target}` : target;
}

function jobWords({ kind, arguments: asked }) {
  const on = asked.prompt === undefined ? "" : ` on “${shortened(asked.prompt)}”`;
  if (kind === "graph") return `Graph of ${targetWords(asked.target)}${on}`;
  if (kind === "weights") return `Circuit of ${targetWords(asked.target)} by weights`;
  if (kind === "intervene") return `${asked.changes.map(changeWords).join(", ")}${on}`;
  if (kind === "steer") return `Steered by ${number(asked.amount)} × ${asked.feature}${on}`;
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
