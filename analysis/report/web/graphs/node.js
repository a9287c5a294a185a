// What is known of one node of a graph: its numbers, what it is made of, and what it is part of.

const LISTED_EDGES = 12;

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
  const largest = Math.abs(edges[0].weight);
  const row = (edge) => {
    const other = into ? edge.source : edge.target;
    return [cell(nodeButton(graph, other, actions)), bar(edge.weight, largest)];
  };
  const columns = [into ? "Input" : "Output", "Weight"];
  const first = edges.slice(0, LISTED_EDGES).map(row);
  const rest = edges.slice(LISTED_EDGES);
  return part(
    title,
    table(edgeCaption(graph, node, into), columns, first, "interactions"),
    rest.length ? furtherEdges(rest, () => table("The weaker ones.", columns, rest.map(row), "interactions")) : "",
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
      ? "The input that is multiplied with itself; the weight is what the product adds to the output."
      : "The two inputs that are multiplied; the weight, given for both, is what the product adds to the output.";
  }
  if (graph.texts) return into ? "What each adds to this node." : "What this node adds to each.";
  return into ? "The coefficient with which each enters this node." : "The coefficient with which this node enters each.";
}

function leftNote([sum, absolute, count]) {
  const those = count === 1 ? "One more is not in the graph: it has" : `${count.toLocaleString("en")} more are not in the graph: they have`;
  return `${those} a sum of ${signed(sum)} (${number(absolute)} in magnitudes).`;
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
