"use strict";

// A figure is drawn when it comes near the window: the page of a large model has hundreds of them.
const drawn = new WeakSet();

function draw(figure) {
  if (drawn.has(figure)) return;
  drawn.add(figure);
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(figure.querySelector(".canvas"), data, layout, { responsive: true, displayModeBar: false });
}

const figures = document.querySelectorAll("figure.plot");

const observer = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "600px" },
);
figures.forEach((figure) => observer.observe(figure));
addEventListener("beforeprint", () => figures.forEach(draw));
