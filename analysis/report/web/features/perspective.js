// Where the chosen feature stands among all: a mark in each histogram of the section about low rank.

function startPerspective() {
  const section = document.getElementById("perspective");
  const shown = document.getElementById("perspective-shown");
  const figures = [...section.querySelectorAll(".distribution")];

  // The number of a feature that a histogram is of; null where it has none.
  function value({ rank, activeOnly, all, values }, measure, k) {
    if (measure === "rank") return rank;
    if (measure === "active") return activeOnly[k - 1];
    if (measure === "all") return all[k - 1];
    return values[0] ? Math.abs(values[k] / values[0]) : null;
  }

  function mark(figure, number_) {
    const svg = figure.querySelector("svg");
    const line = svg.querySelector(".mark");
    const [low, high] = [Number(svg.dataset.low), Number(svg.dataset.high)];
    const place = number_ === null ? null : Math.min(1, Math.max(0, (number_ - low) / (high - low)));
    line.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place !== null) for (const end of ["x1", "x2"]) line.setAttribute(end, 100 * place);
    figure.querySelector(".this").textContent = number_ === null ? "" : `; this one ${number(number_)}`;
  }

  // Features follow each other faster than they are read: the last one asked for is marked.
  async function follow() {
    const feature = featureData.find(location.hash) ?? (follow.any ? null : featureData.first());
    if (!feature) return;
    follow.any = true;
    const output = feature.side === "out";
    follow.asked = feature;
    let details;
    try {
      details = await featureData.read(feature);
    } catch {
      return; // the article says so
    }
    if (follow.asked !== feature) return;
    for (const figure of figures) {
      const { measure, k } = figure.dataset;
      mark(figure, output ? value(details, measure, Number(k)) : null);
    }
    shown.replaceChildren(
      ...(output
        ? ["Marked: ", element("a", { href: featureData.hash(feature), class: "feature" }, featureData.name(feature)), ` of layer ${feature.layer}.`]
        : ["Choose an output feature to see it marked."]),
    );
  }

  addEventListener("hashchange", follow);
  follow();
}

startPerspective();
