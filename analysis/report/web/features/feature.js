// One feature, with everything the page knows about it.

function showFeature(article, feature) {
  for (const canvas of article.querySelectorAll(".canvas")) Plotly.purge(canvas);
  const parts = feature.side === "out" ? outputParts(feature) : inputParts(feature);
  const extras = featureExtras.map((make) => make(feature)).filter(Boolean);
  article.replaceChildren(heading(feature), ...extras, ...parts);
}

function heading(feature) {
  const lists = featureData.lists(feature);
  const tokens = featureData.tokens(feature);
  const name = tokens && element("span", { class: "name" }, tokens);
  return element(
    "header",
    {},
    element("p", { class: "kicker" }, `What the MLP of layer ${feature.layer} ${feature.side === "in" ? "reads" : "writes"} (${lists.site})`),
    element(
      "h3",
      { id: "feature-title", tabindex: "-1" },
      `${feature.side === "in" ? "Input" : "Output"} feature #${featureData.number(feature)}`,
      name && " ",
      name,
    ),
    renamePart(feature),
  );
}

function active(feature) {
  const count = featureData.lists(feature).active[feature.place];
  return [`active tokens of ${featureData.all.nTokens.toLocaleString("en")}`, count.toLocaleString("en")];
}

function outputParts(feature) {
  const { layer, place } = feature;
  const lists = featureData.lists(feature);
  const inputs = (at) => ({ layer, side: "in", place: at });
  const [corner, largest, thousandths] = lists.corner[place];
  const upper = thousandths.map((part) => (part * largest) / 1000);
  return [
    facts([
      active(feature),
      ["effective rank", number(lists.rank[place])],
      ["top 1 of Σλ²", percent(lists.share[place][0])],
      ["strength √Σλ²", number(lists.strength[place])],
      ...reach(feature, lists),
    ]),
    contextsPart(feature, "Where it is active"),
    part("What activates it: pairs of input features", interactionTable(lists.into[place], inputs)),
    part("Between these features", matrixFigure(corner.map(inputs), upper)),
    element(
      "div",
      { class: "columns" },
      part("Eigenvalues", spectrumFigure(lists.values[place])),
      part("How few eigenvectors it takes", explainedTable(lists, place)),
    ),
    tokensPart(
      "What it does to the next token",
      "Those of the text whose logits the direction that it writes raises and lowers most, straight to the output.",
      feature,
      ["raises", "lowers"],
    ),
  ];
}

// The largest number that any input of the layer gives, and the largest in the text beside it.
function reach(feature, lists) {
  if (!lists.most) return [];
  const reached = Math.max(0, ...featureData.contexts(feature).flatMap(({ values }) => values));
  return [
    ["can reach at most", number(lists.most[feature.place])],
    ["reached in the text", number(reached)],
  ];
}

function inputParts(feature) {
  const { layer, place } = feature;
  const lists = featureData.lists(feature);
  return [
    facts([active(feature)]),
    contextsPart(feature, "Where it is active"),
    part("What it takes part in", feedsTable(lists.feeds[place], feature, layer)),
    tokensPart(
      "Tokens that it reads",
      "Those of the text whose embedding would activate it most and least, were it all that the layer reads." +
        (layer ? " Earlier layers have added much to it." : ""),
      feature,
      ["most", "least"],
    ),
  ];
}

function contextsPart(feature, title) {
  const contexts = featureData.contexts(feature);
  if (!contexts.length) {
    return part(title, element("p", { class: "note" }, "It has no peak in the text, so that it is named by weights alone."));
  }
  const largest = Math.max(...contexts.flatMap(({ values }) => values.map(Math.abs)));
  const passages = contexts.map((context) => passage(context, largest));
  return part(
    title,
    element("ol", { class: "contexts" }, ...passages),
    element("p", { class: "note" }, "In front is the feature's code at the underlined token: how active it is."),
  );
}

function interactionTable(list, input) {
  const rows = featureData.records(list, 3);
  if (!rows.length) return element("p", { class: "note" }, "It has no interactions.");
  const largest = Math.abs(rows[0][2]);
  return table(
    "The strongest interactions. Where both features are active, the product of their codes times the value " +
      "is added to this feature.",
    ["Input feature", "with", "Value"],
    rows.map(([left, right, value]) => [
      cell(featureLink(input(left))),
      cell(left === right ? "itself" : featureLink(input(right))),
      bar(value, largest),
    ]),
    "interactions",
  );
}

function feedsTable(list, feature, layer) {
  const rows = featureData.records(list, 3);
  if (!rows.length) return element("p", { class: "note" }, "It has no interactions.");
  const largest = Math.abs(rows[0][2]);
  return table(
    "The strongest of all interactions that this feature is one side of, and the output features they add to.",
    ["Output feature", "together with", "Value"],
    rows.map(([output, partner, value]) => [
      cell(featureLink({ layer, side: "out", place: output })),
      cell(partner === feature.place ? "itself" : featureLink({ layer, side: "in", place: partner })),
      bar(value, largest),
    ]),
    "interactions",
  );
}

function explainedTable(lists, place) {
  const rows = [
    ["correlation, all tokens", lists.all[place]],
    ["correlation, where active", lists.activeOnly[place]],
    ["share of Σλ²", lists.share[place]],
  ];
  return table(
    "The feature beside what its top 1, 2, … eigenvectors alone would give, over the text. Where it is active is " +
      "the harder test.",
    ["Top", ...lists.all[place].map((_, i) => `${i + 1}`)],
    rows.map(([name, values]) => [
      element("th", { scope: "row" }, name),
      ...values.map((value) => cell(value === null ? "–" : value.toFixed(2))),
    ]),
    "explained",
  );
}

function tokensPart(title, says, feature, [up, down]) {
  const lists = featureData.lists(feature);
  return part(
    title,
    element(
      "dl",
      { class: "ends-list" },
      element("dt", {}, up),
      element("dd", {}, chips(lists.up[feature.place])),
      element("dt", {}, down),
      element("dd", {}, chips(lists.down[feature.place])),
    ),
    element("p", { class: "note" }, says),
  );
}
