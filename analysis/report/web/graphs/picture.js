// The picture as it stands on the page: drawn anew when nodes come or go, marked when one is chosen.

class GraphPicture {
  constructor(canvas, tip) {
    Object.assign(this, { canvas, tip });
    for (const name of ["pointerover", "focusin"]) canvas.addEventListener(name, (event) => this.hint(event.target));
    for (const name of ["pointerleave", "focusout"]) canvas.addEventListener(name, () => (tip.hidden = true));
  }

  draw(graph, shown) {
    this.graph = graph;
    this.width = this.canvas.clientWidth;
    const focused = this.nodeOf(document.activeElement)?.id;
    const layout = layoutGraph(graph, shown, this.width);
    this.layout = layout;
    this.svg = svgElement("svg", {
      width: layout.width,
      height: layout.height,
      viewBox: `0 0 ${layout.width} ${layout.height}`,
      role: "graphics-document group",
      "aria-roledescription": "graph",
      "aria-label": `${graph.title()}: ${layout.places.size} nodes. The table below has them as a list.`,
    });
    this.groups = new Map();
    const nodes = svgElement("g", { class: "nodes" });
    for (const [node, at] of layout.places) {
      const group = drawNode(graph, node, at);
      this.groups.set(node, group);
      nodes.append(group);
    }
    this.own = svgElement("g", {});
    this.labels = svgElement("g", { class: "labels", "aria-hidden": "true" });
    this.svg.append(drawGround(graph, layout), drawEdges(graph, layout), this.own, nodes, this.labels);
    this.canvas.replaceChildren(this.svg);
    if (focused) this.focus(graph.byId.get(focused));
  }

  // What stands out: the chosen node and what it is joined to, what is pinned or selected, the nodes of a position.
  mark({ chosen, pinned, selected, position }) {
    const { graph, groups, layout } = this;
    const near = new Set([chosen]);
    for (const edge of chosen.into) near.add(edge.source);
    for (const edge of chosen.outOf) near.add(edge.target);
    const isFar = (node) => {
      if (position !== null) return !graph.positions(node).includes(position);
      return chosen !== graph.target && !near.has(node) && !pinned.has(node.id) && !selected.has(node.id);
    };
    for (const [node, group] of groups) {
      group.classList.toggle("chosen", node === chosen);
      group.classList.toggle("pinned", pinned.has(node.id));
      group.classList.toggle("selected", selected.has(node.id));
      group.classList.toggle("far", isFar(node));
      group.setAttribute("tabindex", node === chosen ? "0" : "-1");
      if (node === chosen) group.setAttribute("aria-current", "true");
      else group.removeAttribute("aria-current");
    }
    if (!groups.has(chosen)) groups.values().next().value?.setAttribute("tabindex", "0");
    this.svg.classList.toggle("focused", chosen !== graph.target || position !== null);
    // Those of the target are in the picture as they are.
    const own = chosen === graph.target ? svgElement("g") : drawOwnEdges(chosen, layout);
    this.own.replaceWith(own);
    this.own = own;
    const rank = (node) => (node === graph.target || node === chosen ? 0 : pinned.has(node.id) || node.members ? 1 : near.has(node) ? 2 : 3);
    this.label(rank, isFar);
  }

  label(rank, isFar) {
    const { graph, layout } = this;
    const nodes = graph.byStrength.filter((node) => layout.places.has(node) && node.kind !== "token" && !isFar(node));
    nodes.sort((a, b) => rank(a) - rank(b));
    const placed = placeLabels(nodes.slice(0, 120), layout, (node) => cut(graph.shortName(node), rank(node) < 2 ? 28 : 16));
    this.labels.replaceChildren(
      ...placed.map(({ node, text, x, y, anchor }) =>
        svgElement("text", { x, y, "text-anchor": anchor, class: rank(node) < 2 ? "strong" : null }, text),
      ),
    );
  }

  nodeOf(target) {
    const group = target?.closest?.("#graph-canvas [data-place]");
    return group ? this.graph.byPlace.get(Number(group.dataset.place)) : null;
  }

  hint(target) {
    const node = this.nodeOf(target);
    this.tip.hidden = !node;
    if (!node) return;
    this.tip.replaceChildren(element("b", {}, this.graph.fullName(node)), element("br"), graphSays(this.graph, node, ""));
    const { x, y } = this.layout.places.get(node);
    const [left, top] = [x - this.canvas.scrollLeft, y - this.canvas.scrollTop];
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.min(Math.max(left, half), Math.max(this.canvas.clientWidth - half, half))}px`;
    this.tip.style.top = `${top}px`;
    this.tip.classList.toggle("under", top < 90);
  }

  focus(node) {
    const group = this.groups.get(node);
    group?.focus({ preventScroll: true });
    return Boolean(group);
  }

  // The focus goes to the next node of a line, or to the nearest of the next line.
  move(node, right, down) {
    const next = this.nearest(node, right, down);
    if (!next) return;
    this.focus(next);
    this.groups.get(next).scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  nearest(node, right = null, down = null) {
    const from = this.layout.places.get(node);
    if (!from) return null;
    let best = null;
    let least = Infinity;
    for (const [other, { x, y }] of this.layout.places) {
      if (other === node) continue;
      const [dx, dy] = [x - from.x, y - from.y];
      if (right && (dx * right <= 0 || Math.abs(dy) > 1)) continue;
      if (down && dy * down <= 1) continue;
      const far = down ? 1000 * Math.abs(dy) + Math.abs(dx) : Math.abs(dx) + (right ? 0 : Math.abs(dy));
      if (far < least) [best, least] = [other, far];
    }
    return best;
  }
}
