// Several nodes of a graph shown as one.
//
// The weights of a supernode's edges are the sums of its members': what a node adds to all of them, and what all
// of them add to a node. So are slopes: how much the sum of the members changes with a node, and how much a node
// changes if all members become larger in proportion, at first order. What members add to each other is inside.

// The graph in which each of some groups of nodes is one; `base` is the graph with all of its nodes.
function groupedGraph(base, groups) {
  if (!groups.length) return base;
  const graph = Object.assign(Object.create(Graph.prototype), { data: base.data, texts: base.texts, base });
  const shown = new Map();
  const supernodes = groups.map((group, i) => supernode(base, group, base.nodes.length + i));
  for (const made of supernodes) made.members.forEach((member) => shown.set(member, made));
  const single = base.nodes.filter((node) => !shown.has(node));
  for (const node of single) shown.set(node, { ...node, into: [], outOf: [] });
  graph.nodes = [...single.map((node) => shown.get(node)), ...supernodes];
  graph.edges = summedEdges(base, shown);
  graph.target = shown.get(base.target);
  graph.finish();
  graph.rows = new Map(
    graph.nodes.map((node) => [node, Math.max(...(node.members ?? [base.nodes[node.place]]).map((member) => base.rows.get(member)))]),
  );
  return graph;
}

function supernode(base, group, place) {
  const members = group.nodes.map((id) => base.byId.get(id));
  const inside = new Set(members);
  const strongest = members.reduce((best, node) => (node.strength > best.strength ? node : best));
  const total = (numbers) => (numbers.some((n) => n === null) ? null : numbers.reduce((sum, n) => sum + n, 0));
  // What goes on to other nodes: a member that is part of another member is not counted twice.
  const leaving = members.flatMap((node) => node.outOf.filter((edge) => !inside.has(edge.target)));
  const shared = (of) => (members.every((node) => node[of] === strongest[of]) ? strongest[of] : null);
  return {
    id: supernodeId(group.name),
    name: group.name,
    place,
    kind: "supernode",
    members,
    layer: shared("layer"),
    position: shared("position"),
    column: strongest.position,
    site: shared("site"),
    number: null,
    label: group.name,
    value: members.every((node) => node.kind === strongest.kind) ? total(members.map((node) => node.value)) : null,
    slope: total(members.map((node) => node.slope)),
    strength: leaving.reduce((sum, edge) => sum + edge.part * edge.target.strength, 0),
    left: summedLeft(members.map((node) => node.left).filter(Boolean)),
    carried: null,
    changes: null,
    into: [],
    outOf: [],
  };
}

function supernodeId(name) {
  return `supernode ${name}`;
}

function summedLeft(parts) {
  if (!parts.length) return null;
  return parts[0].map((_, i) => parts.reduce((sum, part) => sum + part[i], 0));
}

function summedEdges(base, shown) {
  const edges = new Map();
  const products = new Set();
  for (const { source, target, weight, part, slope, grouped } of base.edges) {
    const [from, to] = [shown.get(source), shown.get(target)];
    if (from === to) continue;
    const key = `${from.place} ${to.place}`;
    if (!edges.has(key)) edges.set(key, { source: from, target: to, weight: 0, part: 0, slope: slope === null ? null : 0, grouped: 0 });
    const edge = edges.get(key);
    // Both inputs of a product have its whole weight on their edges: together they have it once.
    const product = target.kind === "interaction" ? `${from.place} ${target.place}` : null;
    if (!products.has(product)) edge.weight += weight;
    if (product) products.add(product);
    if (slope !== null) edge.slope += slope;
    edge.grouped += grouped;
    edge.part += to.strength ? (part * target.strength) / to.strength : 0;
  }
  return [...edges.values()];
}
