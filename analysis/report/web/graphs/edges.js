// What a node is made of and what it is part of, as lists.

const LISTED_EDGES = 12;
const GROUPED_NOTE =
  "In products: the part of the weight that is products with other inputs, too weak to be shown one by one; half of each counts for either input.";

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
    const sums = node.kind === "supernode" ? " Both are sums over the nodes of this one, and slopes add up at first order." : "";
    return into
      ? `Weight: what each adds to this node. Slope: how this node changes with it.${sums}`
      : `Weight: what this node adds to each. Slope: how each changes with it.${sums}`;
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
