// What is known of one node of a graph: its numbers, what it is made of, and what it is part of.

const LISTED_EDGES = 12;

function showNode(article, circuit, node, actions) {
  const feature = circuit.feature(node);
  const name = circuit.name(node);
  article.replaceChildren(
    element(
      "header",
      {},
      element("p", { class: "kicker" }, [circuit.kindName(node), circuit.where(node)].filter(Boolean).join(", ")),
      element("h3", { id: "circuit-node-title", tabindex: "-1" }, name),
    ),
    nodeFacts(circuit, node),
    element(
      "p",
      { class: "actions" },
      actionButton("pin", actions.isPinned(node) ? "Unpin" : "Pin", "p", () => actions.pin(node)),
      node === circuit.target ? null : actionButton("hide", "Hide", "h", () => actions.hide(node)),
      feature && element("a", { href: explorerData.hash(feature), class: "more" }, "All about this feature"),
    ),
    element(
      "div",
      { class: "columns" },
      edgeList(circuit, node, "into", actions),
      edgeList(circuit, node, "outOf", actions),
    ),
  );
}

function actionButton(id, text, key, act) {
  const made = element("button", { type: "button", id: `circuit-${id}`, "aria-keyshortcuts": key }, text, " ", element("kbd", {}, key));
  made.addEventListener("click", act);
  return made;
}

function nodeFacts(circuit, node) {
  const pairs = [];
  if (node.value !== null) pairs.push(["value", number(node.value)]);
  if (node === circuit.target && circuit.data.probability !== null) {
    pairs.push(["probability", percent(circuit.data.probability)]);
  }
  if (node !== circuit.target) pairs.push(["share of the target", percent(node.strength)]);
  if (node.kind === "interaction" && node.value === null) pairs.push(["coefficient", signed(interactionWeight(node))]);
  return facts(pairs);
}

// The edges at one side of a node, strongest first.
function edgeList(circuit, node, side, actions) {
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
    return [cell(nodeButton(circuit, other, actions)), bar(edge.weight, largest)];
  };
  const columns = [into ? "Input" : "Output", "Weight"];
  const first = edges.slice(0, LISTED_EDGES).map(row);
  const rest = edges.slice(LISTED_EDGES);
  return part(
    title,
    table(edgeCaption(circuit, node, into), columns, first, "interactions"),
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

function edgeCaption(circuit, node, into) {
  if (node.kind === "interaction" && into) {
    return node.into.length === 1
      ? "The input that is multiplied with itself; the weight is what the product adds to the output."
      : "The two inputs that are multiplied; the weight, given for both, is what the product adds to the output.";
  }
  if (circuit.texts) return into ? "What each adds to this node." : "What this node adds to each.";
  return into ? "The coefficient with which each enters this node." : "The coefficient with which this node enters each.";
}

function leftNote([sum, absolute, count]) {
  const those = count === 1 ? "One more is not in the graph: it has" : `${count.toLocaleString("en")} more are not in the graph: they have`;
  return `${those} a sum of ${signed(sum)} (${number(absolute)} in magnitudes).`;
}

function nodeButton(circuit, node, actions) {
  const name = circuit.name(node) || node.id;
  const made = element("button", { type: "button", class: "node-link", title: circuitSays(circuit, node) });
  const where = node.position === null ? null : element("small", {}, ` ${circuit.token(node.position)}`);
  made.append(smallShape(node), ` ${name}`);
  if (where && node.kind !== "token") made.append(where);
  made.addEventListener("click", () => actions.select(node, true));
  return made;
}

function smallShape(node) {
  const shape = svgElement("g", { class: circuitClass(node) }, circuitShape(node.kind, 5));
  return svgElement("svg", { class: "small", viewBox: "-9 -9 18 18", width: 14, height: 14, "aria-hidden": "true" }, shape);
}

// All nodes that are shown, as a table: the picture in words.
function nodeTable(circuit, nodes, actions) {
  const rows = nodes.map((node) => [
    cell(nodeButton(circuit, node, actions)),
    cell(circuit.kindName(node)),
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
function circuitLegend(circuit) {
  const seen = new Map();
  for (const node of circuit.nodes) {
    const name = circuit.kindName(node);
    if (!seen.has(name)) seen.set(name, node);
  }
  const order = Object.keys(CIRCUIT_KINDS);
  const kinds = [...seen].sort(([, a], [, b]) => order.indexOf(a.kind) - order.indexOf(b.kind));
  return kinds.map(([name, node]) => element("li", {}, smallShape(node), ` ${name}`));
}
