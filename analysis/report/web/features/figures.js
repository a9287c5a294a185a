// Figures of one output feature. Each is a picture with a sentence in its place for those who do not see it,
// and its numbers as a table.

function color(name, opacity = 1) {
  const channels = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return `rgba(${channels.split(/\s+/).join(",")},${opacity})`;
}

// Plotly reads markup in labels.
function plotText(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const GREY = "#808080";

function layout(height, more) {
  const axis = { gridcolor: "rgba(128,128,128,0.22)", fixedrange: true, automargin: true };
  return {
    height,
    margin: { l: 8, r: 8, t: 12, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: GREY, size: 12, family: "system-ui, sans-serif" },
    showlegend: false,
    dragmode: false,
    bargap: 0.3,
    ...more,
    xaxis: { ...axis, title: { standoff: 6 }, ...more.xaxis },
    yaxis: { ...axis, zerolinecolor: GREY, ...more.yaxis },
  };
}

// A figure that draws itself when it comes near the view.
function plotFigure(says, height, caption, data, more, numbers) {
  const canvas = element("div", { class: "canvas", role: "img", "aria-label": says });
  canvas.style.height = `${height}px`;
  plotting.whenNear(canvas, () =>
    Plotly.newPlot(canvas, data, layout(height, more), { responsive: true, displayModeBar: false }),
  );
  const asTable = element("details", {}, element("summary", {}, "As a table"), numbers);
  return element("figure", { class: "plot" }, canvas, element("figcaption", {}, caption), asTable);
}

function spectrumFigure(values) {
  const ranks = values.map((_, i) => i + 1);
  const caption = `The ${values.length} largest eigenvalues of the interaction matrix, by magnitude.`;
  const bars = {
    type: "bar",
    x: ranks,
    y: values,
    marker: { color: values.map((value) => color(value < 0 ? "negative" : "positive")) },
    hovertemplate: "λ%{x} = %{y}<extra></extra>",
  };
  const axes = { xaxis: { title: { text: "rank", standoff: 6 }, showgrid: false }, yaxis: { title: { text: "λ" } } };
  const rows = values.map((value, i) => [element("th", { scope: "row" }, `${i + 1}`), cell(signed(value))]);
  return plotFigure(
    `Bars. ${caption} The first three are ${values.slice(0, 3).map(signed).join(", ")}.`,
    210,
    caption,
    [bars],
    axes,
    table("Eigenvalues", ["Rank", "λ"], rows, "narrow"),
  );
}

// The whole of a symmetric matrix from its rows right of the diagonal.
function square(upper, n) {
  const rows = Array.from({ length: n }, () => Array(n));
  let next = 0;
  for (let i = 0; i < n; i++) for (let j = i; j < n; j++) rows[i][j] = rows[j][i] = upper[next++];
  return rows;
}

function matrixFigure(features, upper) {
  const matrix = square(upper, features.length);
  const numbers = features.map((feature) => `#${featureData.number(feature)}`);
  const names = features.map((feature) => featureData.name(feature));
  const largest = Math.max(...upper.map(Math.abs)) || 1;
  const places = features.map((_, i) => i);
  const heatmap = {
    type: "heatmap",
    z: matrix,
    zmin: -largest,
    zmax: largest,
    xgap: 1,
    ygap: 1,
    colorscale: [
      [0, color("negative")],
      [0.5, color("negative", 0)],
      [0.5, color("positive", 0)],
      [1, color("positive")],
    ],
    colorbar: { thickness: 8, outlinewidth: 0, len: 1 },
    text: names.map((left) => names.map((right) => plotText(`${left} × ${right}`))),
    hovertemplate: "%{text}<br>%{z}<extra></extra>",
  };
  const ticks = { tickvals: places, ticktext: numbers, showgrid: false, zeroline: false };
  const axes = {
    xaxis: { ...ticks, tickangle: -60, tickfont: { size: 11 } },
    yaxis: { ...ticks, autorange: "reversed", tickfont: { size: 11 } },
  };
  const caption =
    `The ${features.length} input features of the strongest interactions, strongest first: the value of each ` +
    "pair, and on the diagonal of each feature with itself.";
  const rows = matrix.map((row, i) => [
    element("th", { scope: "row" }, featureLink(features[i])),
    ...row.map((value) => cell(signed(value))),
  ]);
  return plotFigure(
    `A matrix of colours. ${caption} The largest value by magnitude is ${number(largest)}.`,
    340,
    caption,
    [heatmap],
    axes,
    table("Values between input features", ["Feature", ...numbers], rows, "dense"),
  );
}
