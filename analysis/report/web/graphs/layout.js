// Where the nodes of a graph stand: rows by step of the computation, bottom up, columns by position.
//
// A cell of the grid holds its nodes in lines, strongest first. A graph without positions is one wide column.

const GRAPH = { pitch: 22, line: 24, pad: 14, gap: 14, title: 17, gutter: 62 };

function layoutGraph(graph, shown, width) {
  const gutter = width > 640 ? GRAPH.gutter : 0;
  const cells = graphCells(graph, shown);
  const columns = graphColumns(graph, cells, width - gutter - GRAPH.gap);
  const places = new Map();
  const bands = [];
  const lanes = [];
  const axis = graph.texts ? axisHeight(graph, columns) : 0;
  let y = GRAPH.pad;
  let band = null;
  for (const row of [...cells.keys()].sort((a, b) => b - a)) {
    const name = bandName(graph, row);
    if (band?.name !== name) {
      if (band) band.bottom = y;
      band = { name, top: y };
      bands.push(band);
      y += GRAPH.title;
    }
    const lines = Math.max(...[...cells.get(row)].map(([key, nodes]) => Math.ceil(nodes.length / columns.get(key).capacity)));
    const isLane = [...cells.get(row).values()].flat().some((node) => node.kind !== "bias");
    if (isLane) lanes.push({ name: laneName(row, graph), y: y + GRAPH.line / 2 });
    for (const [key, nodes] of cells.get(row)) {
      const { left, capacity, pitch } = columns.get(key);
      // A single line stands in the middle of its column.
      const indent = graph.texts ? (Math.max(0, capacity - nodes.length) / 2) * pitch : 0;
      nodes.forEach((node, i) => {
        const x = gutter + left + indent + ((i % capacity) + 0.5) * pitch;
        places.set(node, { x, y: y + (Math.floor(i / capacity) + 0.5) * GRAPH.line });
      });
    }
    y += lines * GRAPH.line + GRAPH.pad;
  }
  if (band) band.bottom = y;
  const last = [...columns.values()].at(-1);
  const total = Math.max(width, gutter + (last ? last.left + last.width : 0) + GRAPH.gap);
  return { places, bands, lanes, columns, gutter, width: total, height: y + axis, bottom: y, tilted: axis > 30 };
}

// Row, then position, then nodes: those that are shown.
function graphCells(graph, shown) {
  const cells = new Map();
  for (const node of graph.byStrength) {
    if (!shown(node)) continue;
    const row = graph.rows.get(node);
    const key = graph.texts ? (node.column ?? node.position ?? -1) : 0;
    if (!cells.has(row)) cells.set(row, new Map());
    const at = cells.get(row);
    if (!at.has(key)) at.set(key, []);
    at.get(key).push(node);
  }
  return cells;
}

// The columns of the positions that have nodes: as wide as they need with the fewest lines that fit.
function graphColumns(graph, cells, width) {
  const most = new Map();
  for (const row of cells.values()) {
    for (const [key, nodes] of row) most.set(key, Math.max(most.get(key) ?? 0, nodes.length));
  }
  const keys = [...most.keys()].sort((a, b) => a - b);
  const needed = (count, lines) => Math.max(1, Math.ceil(count / lines)) * GRAPH.pitch + GRAPH.gap;
  let lines = 1;
  const total = () => keys.reduce((sum, key) => sum + needed(most.get(key), lines), 0);
  while (total() > width && lines < 12) lines++;
  const spread = Math.max(1, Math.min(graph.texts ? 4 : 8, width / (total() || 1)));
  const columns = new Map();
  let left = 0;
  for (const key of keys) {
    const capacity = Math.max(1, Math.ceil(most.get(key) / lines));
    const whole = needed(most.get(key), lines) * spread;
    columns.set(key, { left: left + GRAPH.gap / 2, width: whole, capacity, pitch: (whole - GRAPH.gap) / capacity });
    left += whole;
  }
  return columns;
}

// Texts of tokens lie below their columns, tilted where one is wider than its column.
function axisHeight(graph, columns) {
  const fits = [...columns].every(([key, { width }]) => key < 0 || textWidth(graph.token(key)) < width - 2);
  return fits ? 26 : 66;
}

function textWidth(text) {
  return 6.2 * text.length;
}

function bandName(graph, row) {
  if (row === graph.rows.get(graph.target)) return "target";
  return row <= 0 ? "embedding" : `layer ${Math.floor((row - 1) / 4)}`;
}

function laneName(row, graph) {
  if (row <= 0 || row === graph.rows.get(graph.target)) return "";
  return ["heads", "reads", "multiplies", "writes"][(row - 1) % 4];
}

// Labels beside their nodes, most important first, each where it covers neither nodes nor other labels.
function placeLabels(nodes, layout, textOf) {
  const taken = new Map();
  const cell = 24;
  const boxes = (box) => {
    const keys = [];
    for (let i = Math.floor(box.x0 / cell); i <= Math.floor(box.x1 / cell); i++) {
      for (let j = Math.floor(box.y0 / cell); j <= Math.floor(box.y1 / cell); j++) keys.push(`${i},${j}`);
    }
    return keys;
  };
  const put = (box) => boxes(box).forEach((key) => taken.set(key, [...(taken.get(key) ?? []), box]));
  const free = (box) =>
    box.x0 >= layout.gutter && box.x1 <= layout.width && box.y0 >= 0 &&
    boxes(box).every((key) =>
      (taken.get(key) ?? []).every((other) => box.x1 <= other.x0 || box.x0 >= other.x1 || box.y1 <= other.y0 || box.y0 >= other.y1),
    );
  for (const { x, y } of layout.places.values()) put({ x0: x - 7, x1: x + 7, y0: y - 7, y1: y + 7 });
  for (const { name, top } of layout.bands) put({ x0: 0, x1: 12 + textWidth(name), y0: top, y1: top + 16 });
  const placed = [];
  for (const node of nodes) {
    const text = textOf(node);
    const { x, y } = layout.places.get(node);
    // The ring of a chosen node takes more room.
    const length = textWidth(text) + 10;
    const options = [
      { x: x + 14, anchor: "start", x0: x + 10, y },
      { x: x - 14, anchor: "end", x0: x - 10 - length, y },
      { x, anchor: "middle", x0: x - length / 2, y: y + 15 },
      { x, anchor: "middle", x0: x - length / 2, y: y - 14 },
    ];
    const found = text && options.find((at) => free({ x0: at.x0, x1: at.x0 + length, y0: at.y - 6, y1: at.y + 6 }));
    if (!found) continue;
    put({ x0: found.x0, x1: found.x0 + length, y0: found.y - 6, y1: found.y + 6 });
    placed.push({ node, text, x: found.x, y: found.y + 4, anchor: found.anchor });
  }
  return placed;
}
