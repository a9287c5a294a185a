// What is known of one node of a graph: its numbers, what it is made of, and what it is part of.

const LISTED_EDGES = 12;
const GROUPED_NOTE =
  "In products: the part of the weight that is products with other inputs, too weak to be shown one by one; half of each counts for either input.";

function showNode(article, graph, node, actions) {
  const feature = graph.feature(node);
  const name = graph.name(node);
  article.replaceChildren(
    element(
      "header",
      {},
      element("p", { class: "kicker" }, [graph.kindName(node), graph.where(node)].filter(Boolean).join(", ")),
      element("h3", { id: "graph-node-title", tabindex: "-1" }, name),
    ),
    nodeFacts(graph, node),
    element(
      "p",
      { class: "actions" },
      actionButton("pin", actions.isPinned(node) ? "Unpin" : "Pin", "p", () => actions.pin(node)),
      node === graph.target ? null : actionButton("hide", "Hide", "h", () => actions.hide(node)),
      feature && element("a", { href: featureData.hash(feature), class: "more" }, "All about this feature"),
    ),
    ...nodeExtras.map((make) => make(graph, node)).filter(Boolean),
    element(
      "div",
      { class: "columns" },
      edgeList(graph, node, "into", actions),
      edgeList(graph, node, "outOf", actions),
    ),
  );
}

function actionButton(id, text, key, act) {
  const made = element("button", { type: "button", id: `graph-${id}`, "aria-keyshortcuts": key }, text, " ", element("kbd", {}, key));
  made.addEventListener("click", act);
  return made;
}

function nodeFacts(graph, node) {
  const pairs = [];
  if (node.value !== null) pairs.push(["value", number(node.value)]);
  if (node === graph.target && graph.data.probability !== null) {
    pairs.push(["probability", percent(graph.data.probability)]);
  }
  if (node !== graph.target && node.slope !== null) pairs.push(["slope of the target", signed(node.slope)]);
  if (node !== graph.target) pairs.push(["share of the target", percent(node.strength)]);
  if (node.kind === "interaction" && node.value === null) pairs.push(["coefficient", signed(interactionWeight(node))]);
  return facts(pairs);
}

// The edges at one side of a node, strongest first.
function edgeList(graph, node, side, actions) {
  const edges = node[side];
  const into = side === "into";
  const title = into ? "Made of" : "Part of";
  if (!edges.length) {
    const none = into ? "It is not split further here." : "Everything here leads to it.";
    return part(title, element("p", { class: "note" }, none));
  }
  const largest = Math.max(...edges.map((edge) => Math.abs(edge.amount)));
  const [drawn, other] = graph.data.by === "slope" ? ["slope", "weight"] : ["weight", "slope"];
  const grouped = edges.some((edge) => edge.grouped);
  const row = (edge) => {
    const node = into ? edge.source : edge.target;
    const cells = [cell(nodeButton(graph, node, actions)), bar(edge[drawn], largest)];
    if (graph.hasSlopes) cells.push(cell(signed(edge[other])));
    if (grouped) cells.push(cell(edge.grouped ? signed(edge.grouped) : "–"));
    return cells;
  };
  const columns = [into ? "Input" : "Output", ...(graph.hasSlopes ? [drawn, other] : [drawn]).map(capital)];
  if (grouped) columns.push("In products");
  const first = edges.slice(0, LISTED_EDGES).map(row);
  const rest = edges.slice(LISTED_EDGES);
  return part(
    title,
    table(edgeCaption(graph, node, into), columns, first, "interactions"),
    rest.length ? furtherEdges(rest, () => table("The weaker ones.", columns, rest.map(row), "interactions")) : "",
    grouped ? element("p", { class: "note" }, GROUPED_NOTE) : "",
    into && node.left ? element("p", { class: "note" }, leftNote(node.left)) : "",
  );
}

// Made when it is opened: a node may have hundreds.
function furtherEdges(edges, make) {
  const more = element("details", {}, element("summary", {}, `${edges.length.toLocaleString("en")} weaker ones`));
  more.addEventListener("toggle", () => more.open && more.childElementCount === 1 && more.append(make()));
  return more;
}

function edgeCaption(graph, node, into) {
  if (node.kind === "interaction" && into) {
    return node.into.length === 1
      ? "The input that is multiplied with itself; the weight is what the product adds to the output, its slope twice that."
      : "The two inputs that are multiplied; the weight, given for both, is what the product adds to the output.";
  }
  if (graph.hasSlopes) {
    return into
      ? "Weight: what each adds to this node. Slope: how this node changes with it."
      : "Weight: what this node adds to each. Slope: how each changes with it.";
  }
  if (graph.texts) return into ? "What each adds to this node." : "What this node adds to each.";
  return into ? "The coefficient with which each enters this node." : "The coefficient with which this node enters each.";
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}

function leftNote([sum, absolute, count, slope, absoluteSlope]) {
  const those = count === 1 ? "One more is not in the graph: it has" : `${count.toLocaleString("en")} more are not in the graph: they have`;
  const slopes = slope === undefined ? "" : `, and slopes of ${signed(slope)} (${number(absoluteSlope)})`;
  return `${those} a sum of ${signed(sum)} (${number(absolute)} in magnitudes)${slopes}.`;
}

function nodeButton(graph, node, actions) {
  const name = graph.name(node) || node.id;
  const made = element("button", { type: "button", class: "node-link", title: graphSays(graph, node) });
  const where = node.position === null ? null : element("small", {}, ` ${graph.token(node.position)}`);
  made.append(smallShape(node), ` ${name}`);
  if (where && node.kind !== "token") made.append(where);
  made.addEventListener("click", () => actions.select(node, true));
  return made;
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
    cell(node.layer === null ? "–" : `${node.layer}`),
    cell(node.position === null ? "–" : `${node.position}`),
    cell(node.value === null ? "–" : number(node.value)),
    cell(percent(node.strength)),
  ]);
  return table(
    "The nodes that are shown, those of the largest share of the target first.",
    ["Node", "Kind", "Layer", "Position", "Value", "Share"],
    rows,
    "dense",
  );
}

// How far to believe the graph: what is followed to the end, and what taking nodes away did in the model.
function graphFaith(graph) {
  const { followed, check } = graph.data;
  if (!followed) return [];
  const slopes = followed.slope === undefined ? "" : `${percent(followed.slope)} of the slopes and `;
  const note = element("p", { class: "note" }, `${slopes}${percent(followed.weight)} of the contributions, by magnitude, are followed to the end.`);
  if (!check) return [note];
  const shown = (value) => cell(value === null ? "–" : number(value));
  const rows = check.map(([kind, n, ...numbers]) => [cell(GRAPH_KINDS[kind] ?? kind), cell(`${n}`), ...numbers.map(shown)]);
  const columns = ["Taken away", "How many", "r", "Size", "r, held", "Size, held", "r, random", "Times random"];
  const about = element(
    "p",
    { class: "note" },
    "Nodes were taken away in the model, one at a time. r and size: how the changes that the graph predicts go with those measured, and how many times larger the measured ones are; held: with attention and norms held; random: with random nodes of equal weight taken away instead.",
  );
  return [note, about, table("Checked in the model.", columns, rows, "dense")];
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
