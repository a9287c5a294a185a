// What came of changing nodes, of steering, and samples.

function changeTable(rows) {
  const largest = Math.max(...rows.map(([, value]) => Math.abs(value)));
  return table(
    "The change of the target. Random: the measured one with random nodes of equal weight changed instead.",
    ["", "Change"],
    rows.map(([name, value]) => [element("th", { scope: "row" }, name), bar(value, largest)]),
    "interactions",
  );
}

function tokenTable(before, after) {
  const shares = new Map(before.tokens.map((each) => [each.token, each]));
  const rank = new Map(after.tokens.map((each) => [each.token, each]));
  const every = [...before.tokens, ...after.tokens.filter(({ token }) => !shares.has(token))];
  const part = (found) => cell(found ? percent(found.probability) : "less");
  return table(
    "The likeliest next tokens, before and after.",
    ["Token", "Before", "After"],
    every.map((each) => [
      element("th", { scope: "row" }, element("code", {}, each.label)),
      part(shares.get(each.token)),
      part(rank.get(each.token)),
    ]),
    "narrow",
  );
}

// The prompt in bold, and what was written behind it.
function writtenText(prompt, text) {
  const begin = text.startsWith(prompt) ? prompt : "";
  return element("blockquote", {}, element("b", {}, begin), text.slice(begin.length));
}

function textPart(title, prompt, said) {
  return said.text ? part(title, writtenText(prompt, said.text)) : "";
}

function intervenedParts(asked, found) {
  const rows = [
    ["predicted by the graph", found.predicted],
    ["measured in the model", found.measured],
    ["predicted, attention and norms held", found.predicted_held],
    ["measured, attention and norms held", found.measured_held],
    ...found.random.map((value, i) => [`random ${i + 1}`, value]),
  ];
  return [
    facts([
      ["the target before", number(found.target)],
      ["after", number(found.target + found.measured)],
    ]),
    element("div", { class: "columns" }, part("The target", changeTable(rows)), part("What comes next", tokenTable(found.before, found.after))),
    element("div", { class: "columns" }, textPart("Text before", asked.prompt, found.before), textPart("Text after", asked.prompt, found.after)),
  ];
}

function steeredParts(asked, found) {
  return [
    facts([
      ["times the direction", number(found.amount)],
      ["length of what is added", number(found.length)],
    ]),
    element("div", { class: "columns" }, part("What comes next", tokenTable(found.before, found.after)), part("With a random direction of this length", tokenTable(found.before, found.random))),
    element(
      "div",
      { class: "columns" },
      textPart("Text before", asked.prompt, found.before),
      textPart("Text steered", asked.prompt, found.after),
      textPart("Text with a random direction", asked.prompt, found.random),
    ),
  ];
}

function sampleParts(asked, found) {
  return found.texts.map((text) => writtenText(asked.prompt, text));
}

const RESULT_PARTS = { intervene: intervenedParts, steer: steeredParts, sample: sampleParts };

// Shows the result of a job in the panel.
function showResult(panel, job, result) {
  panel.replaceChildren(
    element(
      "header",
      {},
      element("p", { class: "kicker" }, `Result ${job.number}`),
      element("h3", { id: "explore-result-title", tabindex: "-1" }, jobWords(job)),
    ),
    ...RESULT_PARTS[job.kind](job.arguments, result),
  );
  panel.hidden = false;
  panel.querySelector("h3").focus({ preventScroll: true });
  const { top, bottom } = panel.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) panel.scrollIntoView({ block: "nearest" });
}
