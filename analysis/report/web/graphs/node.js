// What is known of one node of a graph: its numbers, what was written about it, what it is made of and part of.

function showNode(article, graph, node, actions) {
  const feature = graph.feature(node);
  article.replaceChildren(
    element(
      "header",
      {},
      element("p", { class: "kicker" }, graph.kindName(node)),
      nodeTitle(graph, node),
      closeButton(actions),
    ),
    nodeFacts(graph, node),
    element(
      "p",
      { class: "actions" },
      actionButton("pin", actions.isPinned(node) ? "Unpin" : "Pin", "p", () => actions.pin(node)),
      ...(node === graph.target ? [] : [
        actionButton("hide", "Hide", "h", () => actions.hide(node)),
        actionButton("mark", actions.isMarked(node) ? "Unselect" : "Select", "s", () => actions.mark(node)),
      ]),
      feature && element("a", { href: featureData.hash(feature), class: "more" }, "All about this feature"),
    ),
    ...nodeExtras.map((make) => make(graph, node)).filter(Boolean),
    node.members ? supernodeParts(graph, node, actions) : memberNote(graph, node, actions),
    nodeChanges(node.changes),
    noteField(node, actions),
    element("div", { class: "columns" }, edgeList(graph, node, "into", actions), edgeList(graph, node, "outOf", actions)),
  );
}

function nodeTitle(graph, node) {
  const where = graph.where(node);
  return element(
    "h3",
    { id: "graph-node-title", tabindex: "-1" },
    graph.name(node),
    where && element("span", { class: "where" }, `, ${where}`),
  );
}

// For the sheet of a narrow window; elsewhere the details stand beside the graph.
function closeButton(actions) {
  return button({ id: "graph-close", "aria-label": "Close the details" }, () => actions.close(), "×");
}

function actionButton(id, text, key, act) {
  return button({ id: `graph-${id}`, "aria-keyshortcuts": key }, act, text, " ", element("kbd", {}, key));
}

function nodeFacts(graph, node) {
  const pairs = [];
  if (node.value !== null) pairs.push(["value", number(node.value)]);
  if (node === graph.target && graph.data.probability !== null) {
    pairs.push(["probability", percent(graph.data.probability)]);
  }
  if (node !== graph.target && node.slope !== null) pairs.push(["slope of the target", signed(node.slope)]);
  if (node !== graph.target) pairs.push(["share of the target", percent(node.strength)]);
  if (node.carried !== null) pairs.push(["variance its products carry", percent(node.carried)]);
  if (node.kind === "interaction" && node.value === null) pairs.push(["coefficient", signed(interactionWeight(node))]);
  return facts(pairs);
}

// The nodes of a supernode, and what can be done with it.
function supernodeParts(graph, node, actions) {
  const name = element("input", { type: "text", id: "graph-rename", value: node.name, "aria-label": "Name of the supernode", maxlength: 80 });
  name.addEventListener("change", () => actions.rename(node, name.value));
  const open = button({ id: "graph-open-group" }, () => actions.openGroup(node), "Open");
  const dissolve = button({ id: "graph-dissolve" }, () => actions.dissolve(node), "Dissolve");
  const base = graph.base;
  const members = [...node.members].sort((a, b) => b.strength - a.strength);
  return part(
    `${members.length} nodes as one`,
    element("p", { class: "actions" }, name, open, dissolve),
    element("ul", { class: "members" }, ...members.map((member) => element("li", {}, nodeButton(base, member, actions), ` ${percent(member.strength)}`))),
    element("p", { class: "note" }, `${graph.hasSlopes ? "Its value and slope are sums over these nodes: the slope is what the target gains at first order if all of them double at once. " : ""}Its share is what goes on to nodes outside; its edges are the sums of theirs.`),
  );
}

// In which supernode a node is.
function memberNote(graph, node, actions) {
  const group = actions.groupOf(node);
  if (!group) return "";
  const show = button({ class: "node-link", id: "graph-close-group" }, () => actions.closeGroup(group), group.open ? "Show them as one" : "Show it");
  return element("p", { class: "note" }, `Of the supernode “${group.name}”. `, show);
}

// What the target did without this node, or some together, beside what the graph says.
function nodeChanges(changes, what = "this node is") {
  if (!changes) return "";
  const { predicted, free, predictedHeld, held, randomFree, randomHeld } = changes;
  const row = (name, said, measured, random) => [element("th", { scope: "row" }, name), cell(signed(said)), cell(signed(measured)), cell(random.map((value) => number(value, 2)).join(", ") || "–")];
  return element(
    "div",
    { id: "graph-changes" },
    table(
      `The target's change when ${what} taken away: as the graph predicts, as measured in the model, and with random nodes of equal weight taken away instead.`,
      ["", "Predicted", "Measured", "Random"],
      [row("free", predicted, free, randomFree), row("held", predictedHeld, held, randomHeld)],
      "changes",
    ),
  );
}

// A text of one's own.
function noteField(node, actions) {
  const text = element("textarea", { id: "graph-note", rows: 2, placeholder: "What is this node for?" });
  text.value = actions.noteOf(node);
  text.addEventListener("input", () => actions.note(node, text.value));
  return element("p", { class: "own-note" }, element("label", { for: "graph-note" }, "Your note"), text);
}

function nodeButton(graph, node, actions) {
  const name = graph.name(node) || node.id;
  const where = graph.where(node);
  return button(
    { class: "node-link", title: graphSays(graph, node) },
    () => actions.select(node, true),
    smallShape(node),
    ` ${name}`,
    where && element("small", {}, `, ${where}`),
  );
}

function smallShape(node) {
  const shape = svgElement("g", { class: graphClass(node) }, graphShape(node.kind, 5));
  return svgElement("svg", { class: "small", viewBox: "-9 -9 18 18", width: 14, height: 14, "aria-hidden": "true" }, shape);
}

// All nodes that are shown, as a table: the picture in words.
function nodeTable(graph, nodes, actions) {
  const rows = nodes.map((node) => [
    cell(nodeButton(graph, node, actions)),
    cell(graph.kindName(node)),
    cell(number(node.value)),
    cell(percent(node.strength)),
  ]);
  return table(
    "The nodes that are shown, those of the largest share of the target first.",
    ["Node", "Kind", "Value", "Share"],
    rows,
    "dense",
  );
}

// The shapes that occur, once each, with what they stand for.
function graphLegend(graph) {
  const seen = new Map();
  for (const node of graph.nodes) {
    const name = graph.kindName(node);
    if (!seen.has(name)) seen.set(name, node);
  }
  const order = Object.keys(GRAPH_KINDS);
  const kinds = [...seen].sort(([, a], [, b]) => order.indexOf(a.kind) - order.indexOf(b.kind));
  return kinds.map(([name, node]) => element("li", {}, smallShape(node), ` ${name}`));
}
