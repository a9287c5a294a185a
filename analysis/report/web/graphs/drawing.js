// The picture of a graph, as SVG: bands of layers, edges, nodes, labels.

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, properties = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

// The outline of a kind of node around 0, 0.
function graphShape(kind, size = 6) {
  const s = size;
  const outline = (...points) => svgElement("polygon", { points: points.map((point) => point.join(",")).join(" ") });
  switch (kind) {
    case "interaction":
      return outline([0, -s - 1], [s + 1, 0], [0, s + 1], [-s - 1, 0]);
    case "token":
      return svgElement("rect", { x: -s, y: -s, width: 2 * s, height: 2 * s, rx: 2 });
    case "error":
      return svgElement("rect", { x: 1 - s, y: 1 - s, width: 2 * s - 2, height: 2 * s - 2 });
    case "bias":
      return outline([0, 1 - s], [s, s - 1], [-s, s - 1]);
    case "head":
      return outline([-s, 0], [-s / 2, -s], [s / 2, -s], [s, 0], [s / 2, s], [-s / 2, s]);
    case "score":
      return outline([-s, 1 - s], [s, 1 - s], [0, s - 1]);
    case "supernode":
      return svgElement("rect", { x: -s - 4, y: -s - 1, width: 2 * s + 8, height: 2 * s + 2, rx: 4 });
    case "direction":
      return svgElement("rect", { x: -s - 2, y: 2 - s, width: 2 * s + 4, height: 2 * s - 4, rx: s - 2 });
    default:
      return svgElement("circle", { r: kind === "logit" || kind === "target" ? s + 2 : s });
  }
}

function graphClass(node) {
  const side = node.kind === "feature" ? (node.site.endsWith("mlp-out") ? " written" : " read") : "";
  const sign = node.kind === "interaction" ? (interactionWeight(node) < 0 ? " n" : " p") : "";
  return `node ${node.kind}${side}${sign}`;
}

function interactionWeight(node) {
  return node.value ?? node.outOf[0]?.weight ?? 0;
}

// Upwards in an S; along a line of nodes in a bow above it.
function edgePath(from, to) {
  const middle = Math.abs(from.y - to.y) < 1 ? from.y - 22 : (from.y + to.y) / 2;
  const short = (n) => n.toFixed(1);
  return `M${short(from.x)} ${short(from.y)}C${short(from.x)} ${short(middle)} ${short(to.x)} ${short(middle)} ${short(to.x)} ${short(to.y)}`;
}

// Bands, what stands beside them, and the tokens below.
function drawGround(graph, layout) {
  const ground = svgElement("g", { class: "ground", "aria-hidden": "true" });
  layout.bands.forEach(({ name, top, bottom }, i) => {
    if (i % 2) ground.append(svgElement("rect", { x: 0, y: top, width: layout.width, height: bottom - top }));
    ground.append(svgElement("text", { x: 8, y: top + 14, class: "band" }, name));
  });
  if (layout.gutter) {
    for (const { name, y } of layout.lanes) ground.append(svgElement("text", { x: 8, y: y + 4 }, name));
  }
  if (!graph.texts) return ground;
  for (const [key, { left, width }] of layout.columns) {
    if (key < 0) continue;
    const x = layout.gutter + left + (width - GRAPH.gap) / 2;
    const text = cut(graph.token(key), 12);
    const turn = layout.tilted ? { transform: `rotate(-48 ${x + 3} ${layout.bottom + 12})`, "text-anchor": "end" } : { "text-anchor": "middle" };
    ground.append(svgElement("text", { x, y: layout.bottom + 16, class: "token-text", "data-position": key, ...turn }, text));
  }
  return ground;
}

const FAINTEST_EDGES = 600;

// The strongest edges, as one path for each sign and width: thousands of paths would be slow.
function drawEdges(graph, layout) {
  const seen = graph.edges.filter(({ source, target }) => layout.places.has(source) && layout.places.has(target));
  const strength = (edge) => edge.part * edge.target.strength;
  seen.sort((a, b) => strength(b) - strength(a));
  const strongest = seen.length ? strength(seen[0]) : 1;
  const paths = new Map();
  for (const edge of seen.slice(0, FAINTEST_EDGES)) {
    const width = Math.ceil(5 * Math.sqrt(strength(edge) / (strongest || 1))) || 1;
    const key = `${edge.amount < 0 ? "n" : "p"} w${width}`;
    paths.set(key, (paths.get(key) ?? "") + edgePath(layout.places.get(edge.source), layout.places.get(edge.target)));
  }
  const drawn = [...paths].sort().map(([key, d]) => svgElement("path", { class: key, d }));
  return svgElement("g", { class: "edges", "aria-hidden": "true" }, ...drawn);
}

// The edges of one node, each as wide as its number beside the largest.
function drawOwnEdges(node, layout) {
  const group = svgElement("g", { class: "own edges", "aria-hidden": "true" });
  for (const edges of [node.into, node.outOf]) {
    const largest = Math.abs(edges[0]?.amount ?? 1) || 1;
    for (const { source, target, amount } of edges) {
      const [from, to] = [layout.places.get(source), layout.places.get(target)];
      if (!from || !to) continue;
      const path = svgElement("path", { class: amount < 0 ? "n" : "p", d: edgePath(from, to) });
      path.style.strokeWidth = (0.6 + (3.4 * Math.abs(amount)) / largest).toFixed(2);
      group.append(path);
    }
  }
  return group;
}

function drawNode(graph, node, { x, y }) {
  const group = svgElement("g", {
    class: graphClass(node),
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
    role: "graphics-symbol img",
    "aria-roledescription": "node",
    "aria-label": graphSays(graph, node),
    tabindex: "-1",
    "data-place": node.place,
  });
  group.append(svgElement("circle", { class: "hit", r: 11 }), graphShape(node.kind));
  if (node.members) group.append(svgElement("text", { y: 3.5, "text-anchor": "middle" }, `${node.members.length}`));
  return group;
}

// A node in a sentence; an empty `name` leaves out what it is called.
function graphSays(graph, node, name = graph.fullName(node)) {
  const parts = [graph.kindName(node), name];
  if (node.members) parts.push(`${node.members.length} nodes`);
  if (node.value !== null) parts.push(`value ${number(node.value)}`);
  if (node !== graph.target) parts.push(`${percent(node.strength)} of the target`);
  return parts.filter(Boolean).join(", ");
}
