// How far to believe a graph: what is followed to the end, and what taking nodes away did in the model.

const SCATTER = { size: 260, pad: 34 };

// The few numbers above the graph.
function faithLine(graph) {
  const { followed, ends, variance, check } = graph.data;
  const by = graph.data.by;
  const parts = [];
  if (ends) {
    parts.push(["followed", percent(followed[by])], ["of it errors", percent(followed[by] ? (ends.error ?? 0) / followed[by] : 0)]);
  } else {
    parts.push(["followed to tokens, of squares", percent(followed.weight)]);
  }
  if (check) {
    parts.push(["change without a node, predicted against measured:", ""]);
    for (const [kind, , free, , held, , random] of check) {
      const name = (GRAPH_KINDS[kind] ?? kind).toLowerCase();
      parts.push([`${name} r`, number(free, 2), `held ${number(held, 2)}, random ${number(random, 2)}`]);
    }
  } else if (variance?.length) {
    parts.push(...[...variance].reverse().map(([layer, part]) => [`variance carried, layer ${layer}`, percent(part)]));
  }
  return parts.map(([name, value, more]) => element("span", {}, `${name} `, element("b", {}, value), more ? ` (${more})` : ""));
}

function correlation(pairs) {
  const mean = (i) => pairs.reduce((sum, pair) => sum + pair[i], 0) / pairs.length;
  const [x, y] = [mean(0), mean(1)];
  const product = (i, j) => pairs.reduce((sum, pair) => sum + (pair[i] - [x, y][i]) * (pair[j] - [x, y][j]), 0);
  const spread = Math.sqrt(product(0, 0) * product(1, 1));
  return spread ? product(0, 1) / spread : null;
}

function faithDetails(graph, actions) {
  const made = [element("p", { class: "note" }, followedWords(graph))];
  const { check, variance } = graph.data;
  if (check) {
    made.push(...scatters(graph, actions), checkedTable(check));
  } else if (variance?.length) {
    made.push(element("p", { class: "note" }, "Without a prompt there is nothing to take away: a graph of weights is not of one input. In place of a check stands how much of what each MLP writes the products shown can carry at most, as a part of its variance when its inputs are Gaussian: " + variance.map(([layer, part]) => `${percent(part)} in layer ${layer}`).join(", ") + ". Where that is little, the graph shows the largest parts of a sum of very many small ones."));
  } else if (graph.data.ends) {
    made.push(element("p", { class: "note" }, "What this graph predicts was not checked in the model."));
  }
  return made;
}

function followedWords(graph) {
  const { followed, ends } = graph.data;
  if (!ends) return `${percent(followed.weight)} of the squares of coefficients are followed down to tokens and biases; the rest is not shown.`;
  const slopes = followed.slope === undefined ? "" : `${percent(followed.slope)} of the slopes and `;
  const by = graph.data.by === "slope" ? "slopes" : "contributions";
  const names = { token: "tokens", error: "errors, which dictionaries miss and nothing explains", bias: "biases" };
  const listed = Object.entries(ends).sort(([, a], [, b]) => b - a).map(([kind, part]) => `${percent(part)} end at ${names[kind] ?? `nodes that are not split further (${kind})`}`);
  return `${slopes}${percent(followed.weight)} of the contributions, by magnitude, are followed to the end; the rest is too weak to be shown. Of the target's ${by} ${listed.join("; ")}.`;
}

function scatters(graph, actions) {
  const about = element(
    "p",
    { class: "note" },
    "Each filled mark is a node that was taken away in the model: across, the change of the target that the graph predicts; up, the change that was measured. On the line both are the same. Hollow marks are random nodes of equal weight in its place: without the graph, measured changes would look like these. Free: the model does all it does, and the prediction is by slopes (for changes that are not small, by the model restricted to the graph). Held: attention and the sizes of inner states stay as they were, and the prediction is by weights. Axes are by the root, so that small changes are seen beside large ones.",
  );
  const nodes = graph.nodes.filter((node) => node.changes);
  if (!nodes.length) return [about];
  const free = scatter(graph, nodes, "Free", ({ predicted, free, randomFree }) => [predicted, free, randomFree], actions);
  const held = scatter(graph, nodes, "Held", ({ predictedHeld, held, randomHeld }) => [predictedHeld, held, randomHeld], actions);
  return [about, element("div", { class: "scatters" }, free, held)];
}

function scatter(graph, nodes, title, numbersOf, actions) {
  const rows = nodes.map((node) => [node, ...numbersOf(node.changes)]);
  const largest = Math.max(...rows.flatMap(([, predicted, measured, random]) => [predicted, measured, ...random].map(Math.abs)), 1e-9);
  const { size, pad } = SCATTER;
  const root = (value) => Math.sign(value) * Math.sqrt(Math.abs(value) / largest);
  const x = (value) => pad + ((root(value) + 1) / 2) * (size - 2 * pad);
  const y = (value) => size - x(value);
  const line = (from, to, kind) => svgElement("line", { x1: x(from[0]), y1: y(from[1]), x2: x(to[0]), y2: y(to[1]), class: kind });
  const picture = svgElement("svg", { viewBox: `0 0 ${size} ${size}`, class: "scatter", role: "group", "aria-label": `${title}: measured against predicted changes of the target, ${rows.length} nodes` });
  picture.append(line([-largest, 0], [largest, 0], "axis"), line([0, -largest], [0, largest], "axis"), line([-largest, -largest], [largest, largest], "same"));
  for (const [, predicted, , random] of rows) {
    for (const value of random) picture.append(svgElement("circle", { cx: x(predicted), cy: y(value), r: 2.5, class: "random" }));
  }
  for (const [node, predicted, measured] of rows) {
    const mark = svgElement("g", { class: graphClass(node), transform: `translate(${x(predicted).toFixed(1)} ${y(measured).toFixed(1)})` }, graphShape(node.kind, 4));
    mark.append(svgElement("title", {}, `${graph.fullName(node)}: predicted ${signed(predicted)}, measured ${signed(measured)}`));
    mark.addEventListener("click", () => actions.select(node));
    picture.append(mark);
  }
  const texts = [
    [size / 2, size - 4, "middle", "predicted"],
    [4, 12, "start", "measured"],
    [size - pad, size / 2 + 13, "end", signed(largest)],
    [pad, size / 2 + 13, "start", signed(-largest)],
  ];
  picture.append(...texts.map(([left, top, anchor, text]) => svgElement("text", { x: left, y: top, "text-anchor": anchor }, text)));
  const r = correlation(rows.map(([, predicted, measured]) => [predicted, measured]));
  const random = correlation(rows.flatMap(([, predicted, , values]) => values.map((value) => [predicted, value])));
  const caption = `${title}: r = ${number(r, 2)}${random === null ? "" : `, random nodes ${number(random, 2)}`}`;
  return element("figure", {}, picture, element("figcaption", {}, caption));
}

function checkedTable(check) {
  const rows = check.map(([kind, n, ...numbers]) => [cell(GRAPH_KINDS[kind] ?? kind), cell(`${n}`), ...numbers.map((value) => cell(number(value)))]);
  const columns = ["Taken away", "How many", "r", "Size", "r, held", "Size, held", "r, random", "Times random"];
  const caption = "By kind. r: how the predicted changes go with the measured ones; size: how many times larger the measured ones are; times random: how many times larger than those by random nodes.";
  return table(caption, columns, rows, "dense");
}
