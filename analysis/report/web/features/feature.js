// One feature, with everything the page knows about it.

// Its heading at once, the rest when it was read, unless another was asked for meanwhile. Whether it is shown.
async function showFeature(article, feature) {
  const asked = Symbol();
  showFeature.asked = asked;
  plotting.forget(article);
  article.setAttribute("aria-busy", "true");
  article.style.minHeight = `${article.offsetHeight}px`; // so that the page stays where it is
  article.dataset.address = featureData.hash(feature);
  article.replaceChildren(heading(feature));
  let parts;
  try {
    const details = await featureData.read(feature);
    if (showFeature.asked !== asked) return false;
    const extras = featureExtras.map((make) => make(feature, details)).filter(Boolean);
    parts = [...extras, ...(feature.side === "out" ? outputParts(feature, details) : inputParts(feature, details))];
  } catch (error) {
    if (showFeature.asked !== asked) return false;
    parts = [element("p", { class: "note", role: "alert" }, error.message)];
  }
  // The heading has the feature's name now; the focus stays in it.
  const focused = document.activeElement?.id;
  article.replaceChildren(heading(feature), ...parts);
  if (focused && document.activeElement === document.body) {
    article.querySelector(`#${CSS.escape(focused)}`)?.focus({ preventScroll: true });
  }
  article.style.minHeight = "";
  article.removeAttribute("aria-busy");
  return true;
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
    lists.name && renamePart(feature),
  );
}

function active(feature) {
  const count = featureData.lists(feature).active[feature.place];
  return [`active tokens of ${featureData.all.nTokens.toLocaleString("en")}`, count.toLocaleString("en")];
}

function outputParts(feature, details) {
  const { layer } = feature;
  const inputs = (at) => ({ layer, side: "in", place: at });
  const [corner, largest, thousandths] = details.corner;
  const upper = thousandths.map((part) => (part * largest) / 1000);
  return [
    facts([
      active(feature),
      ["effective rank", number(details.rank)],
      ["top 1 of Σλ²", percent(details.share[0])],
      ["strength √Σλ²", number(details.strength)],
      ...reach(details),
    ]),
    contextsPart(details, "Where it is active"),
    part("What activates it: pairs of input features", interactionTable(details.into, inputs)),
    part("Between these features", matrixFigure(corner.map(inputs), upper)),
    element(
      "div",
      { class: "columns" },
      part("Eigenvalues", spectrumFigure(details.values)),
      part("How few eigenvectors it takes", explainedTable(details)),
    ),
    tokensPart(
      "What it does to the next token",
      "Those of the text whose logits the direction that it writes raises and lowers most, straight to the output.",
      details,
      ["raises", "lowers"],
    ),
  ];
}

// The largest number that any input of the layer gives, and the largest in the text beside it.
function reach(details) {
  if (details.most === null) return [];
  const reached = Math.max(0, ...featureData.contexts(details).flatMap(({ values }) => values));
  return [
    ["can reach at most", number(details.most)],
    ["reached in the text", number(reached)],
  ];
}

function inputParts(feature, details) {
  const { layer } = feature;
  return [
    facts([active(feature)]),
    contextsPart(details, "Where it is active"),
    part("What it takes part in", feedsTable(details.feeds, feature, layer)),
    tokensPart(
      "Tokens that it reads",
      "Those of the text whose embedding would activate it most and least, were it all that the layer reads." +
        (layer ? " Earlier layers have added much to it." : ""),
      details,
      ["most", "least"],
    ),
  ];
}

function contextsPart(details, title) {
  const contexts = featureData.contexts(details);
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

function explainedTable(details) {
  const rows = [
    ["correlation, all tokens", details.all],
    ["correlation, where active", details.activeOnly],
    ["share of Σλ²", details.share],
  ];
  return table(
    "The feature beside what its top 1, 2, … eigenvectors alone would give, over the text. Where it is active is " +
      "the harder test.",
    ["Top", ...details.all.map((_, i) => `${i + 1}`)],
    rows.map(([name, values]) => [
      element("th", { scope: "row" }, name),
      ...values.map((value) => cell(value === null ? "–" : value.toFixed(2))),
    ]),
    "explained",
  );
}

function tokensPart(title, says, details, [up, down]) {
  return part(
    title,
    element(
      "dl",
      { class: "ends-list" },
      element("dt", {}, up),
      element("dd", {}, chips(details.up)),
      element("dt", {}, down),
      element("dd", {}, chips(details.down)),
    ),
    element("p", { class: "note" }, says),
  );
}
