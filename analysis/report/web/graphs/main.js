// The graph part of the page: what is drawn, chosen, pinned, hidden and left out.

const FIRST_SHOWN = 250;

class GraphView {
  constructor(section) {
    const find = (id) => section.querySelector(`#graph-${id}`);
    this.canvas = find("canvas");
    this.tip = find("tip");
    this.article = find("node");
    this.filter = find("filter");
    this.filterText = find("filter-text");
    this.showAll = find("show-all");
    this.status = find("status");
    this.all = find("all");
    this.legend = find("legend");
    this.faith = find("faith");
    this.prompt = new PromptView(find("prompt"), find("prompt-note"), (position) => {
      this.position = position;
      this.mark();
    });
    this.actions = {
      isPinned: (node) => this.pinned.has(node),
      pin: (node) => this.pin(node),
      hide: (node) => this.hide(node),
      select: (node, entered) => this.select(node, entered),
    };
    this.filter.addEventListener("input", () => {
      this.least = 10 ** Number(this.filter.value);
      this.changed();
    });
    this.showAll.addEventListener("click", () => this.restore());
    this.all.addEventListener("toggle", () => this.list());
    this.canvas.addEventListener("click", (event) => {
      const node = this.nodeOf(event.target);
      if (node) this.select(node);
    });
    this.canvas.addEventListener("keydown", (event) => this.pressed(event));
    for (const name of ["pointerover", "focusin"]) this.canvas.addEventListener(name, (event) => this.hint(event.target));
    for (const name of ["pointerleave", "focusout"]) this.canvas.addEventListener(name, () => (this.tip.hidden = true));
    new ResizeObserver(() => {
      if (this.graph && this.canvas.clientWidth !== this.width) this.draw();
    }).observe(this.canvas);
  }

  open(graph) {
    this.graph = graph;
    const strengths = graph.byStrength.map((node) => node.strength).filter((strength) => strength > 0);
    const kept = graphState.read(graph);
    this.pinned = new Set(kept.pinned);
    this.hidden = new Set(kept.hidden);
    this.chosen = kept.chosen ?? graph.target;
    this.position = null;
    this.least = kept.least ?? (strengths[FIRST_SHOWN] ?? 0);
    const low = Math.log10(strengths.at(-1) ?? 1e-6);
    const high = Math.log10(Math.max(strengths[Math.min(5, strengths.length - 1)] ?? 1, strengths.at(-1) ?? 0));
    Object.assign(this.filter, { min: Math.floor(100 * low) / 100, max: Math.ceil(100 * high) / 100, step: 0.01 });
    this.filter.value = this.least ? Math.log10(this.least) : this.filter.min;
    this.prompt.open(graph);
    this.legend.replaceChildren(...graphLegend(graph));
    this.faith.replaceChildren(...graphFaith(graph));
    this.draw();
    this.showChosen();
  }

  isShown(node) {
    if (this.hidden.has(node)) return false;
    return node === this.graph.target || node === this.chosen || this.pinned.has(node) || node.strength >= this.least;
  }

  draw() {
    const { graph } = this;
    this.width = this.canvas.clientWidth;
    const focused = this.nodeOf(document.activeElement);
    const layout = layoutGraph(graph, (node) => this.isShown(node), this.width);
    this.layout = layout;
    this.svg = svgElement("svg", {
      width: layout.width,
      height: layout.height,
      viewBox: `0 0 ${layout.width} ${layout.height}`,
      role: "graphics-document group",
      "aria-roledescription": "graph",
      "aria-label": `${graph.data.name}: ${layout.places.size} nodes. The table below has them as a list.`,
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
    this.mark();
    if (focused && this.groups.has(focused)) this.groups.get(focused).focus({ preventScroll: true });
    this.count();
    this.list();
  }

  // What stands out for the chosen and the pinned nodes.
  mark() {
    const { chosen, graph, groups, layout } = this;
    const near = new Set([chosen]);
    for (const edge of chosen.into) near.add(edge.source);
    for (const edge of chosen.outOf) near.add(edge.target);
    const isFar = (node) => {
      if (this.position !== null) return node.position !== this.position;
      return chosen !== graph.target && !near.has(node) && !this.pinned.has(node);
    };
    for (const [node, group] of groups) {
      group.classList.toggle("chosen", node === chosen);
      group.classList.toggle("pinned", this.pinned.has(node));
      group.classList.toggle("far", isFar(node));
      group.setAttribute("tabindex", node === chosen ? "0" : "-1");
      if (node === chosen) group.setAttribute("aria-current", "true");
      else group.removeAttribute("aria-current");
    }
    if (!groups.has(chosen)) groups.values().next().value?.setAttribute("tabindex", "0");
    this.svg.classList.toggle("focused", chosen !== graph.target || this.position !== null);
    // Those of the target are in the picture as they are.
    const own = chosen === graph.target ? svgElement("g") : drawOwnEdges(chosen, layout);
    this.own.replaceWith(own);
    this.own = own;
    this.drawLabels(near, isFar);
    this.prompt.show(chosen, this.position);
  }

  drawLabels(near, isFar) {
    const { graph, layout } = this;
    const rank = (node) => (node === graph.target || node === this.chosen ? 0 : this.pinned.has(node) ? 1 : near.has(node) ? 2 : 3);
    const nodes = graph.byStrength.filter((node) => layout.places.has(node) && node.kind !== "token" && !isFar(node));
    nodes.sort((a, b) => rank(a) - rank(b));
    const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
    const placed = placeLabels(nodes.slice(0, 120), layout, (node) => cut(graph.shortName(node), rank(node) < 2 ? 28 : 16));
    this.labels.replaceChildren(
      ...placed.map(({ node, text, x, y, anchor }) =>
        svgElement("text", { x, y, "text-anchor": anchor, class: rank(node) < 2 ? "strong" : null }, text),
      ),
    );
  }

  select(node, entered = false) {
    this.chosen = node;
    this.hidden.delete(node);
    this.save();
    if (this.layout.places.has(node)) this.mark();
    else this.draw();
    this.showChosen();
    if (entered) document.getElementById("graph-node-title").focus({ preventScroll: true });
  }

  showChosen() {
    showNode(this.article, this.graph, this.chosen, this.actions);
  }

  pin(node) {
    if (!this.pinned.delete(node)) this.pinned.add(node);
    this.tell(`${this.graph.name(node)} ${this.pinned.has(node) ? "pinned" : "no longer pinned"}`);
    this.changed();
    this.refocus("pin");
  }

  hide(node) {
    if (node === this.graph.target) return this.tell("The target stays.");
    const next = this.nearest(node);
    this.hidden.add(node);
    this.pinned.delete(node);
    if (this.chosen === node) this.chosen = this.graph.target;
    this.tell(`${this.graph.name(node)} hidden`);
    this.changed();
    const group = this.groups.get(next) ?? this.groups.get(this.chosen);
    if (!document.activeElement || document.activeElement === document.body) group?.focus({ preventScroll: true });
  }

  // After the buttons have been made anew.
  refocus(id) {
    if (document.activeElement === document.body) document.getElementById(`graph-${id}`)?.focus({ preventScroll: true });
  }

  restore() {
    this.hidden.clear();
    this.least = 0;
    this.filter.value = this.filter.min;
    this.tell("All nodes are shown.");
    this.changed();
  }

  changed() {
    this.save();
    this.draw();
    this.showChosen();
  }

  save() {
    graphState.write(this);
  }

  count() {
    const [shown, all] = [this.layout.places.size, this.graph.nodes.length];
    const least = this.least ? `${percent(this.least)} or more of the target` : "any share";
    this.filterText.textContent = `${least}: ${shown} of ${all} nodes`;
    this.filter.setAttribute("aria-valuetext", this.filterText.textContent);
    const hidden = this.hidden.size;
    this.showAll.textContent = hidden ? `Show all (${hidden} hidden)` : "Show all";
    this.showAll.disabled = shown === all;
  }

  list() {
    const old = this.all.querySelector("table");
    (old?.closest(".scroll") ?? old)?.remove();
    if (!this.all.open) return;
    const nodes = this.graph.byStrength.filter((node) => this.layout.places.has(node));
    this.all.append(nodeTable(this.graph, nodes, this.actions));
  }

  tell(text) {
    this.status.textContent = text;
  }

  nodeOf(target) {
    const group = target?.closest?.("#graph-canvas [data-place]");
    return group ? this.graph.nodes[Number(group.dataset.place)] : null;
  }

  hint(target) {
    const node = this.nodeOf(target);
    this.tip.hidden = !node;
    if (!node) return;
    const lines = [this.graph.name(node), graphSays(this.graph, node).replace(`${this.graph.name(node)}, `, "")];
    this.tip.replaceChildren(element("b", {}, lines[0]), element("br"), lines[1]);
    const { x, y } = this.layout.places.get(node);
    const left = x - this.canvas.scrollLeft;
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.min(Math.max(left, half), Math.max(this.canvas.clientWidth - half, half))}px`;
    this.tip.style.top = `${y}px`;
    this.tip.classList.toggle("under", y < 90);
  }

  pressed(event) {
    const node = this.nodeOf(event.target);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key]) this.move(node, ...steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.select(node);
    else if (event.key === "p") this.pin(node);
    else if (event.key === "h") this.hide(node);
    else if (event.key === "Escape") this.select(this.graph.target);
    else return;
    event.preventDefault();
  }

  // The focus goes to the next node of a line, or to the nearest of the next line.
  move(node, right, down) {
    const next = this.nearest(node, right, down);
    if (!next) return;
    const group = this.groups.get(next);
    group.focus({ preventScroll: true });
    group.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  nearest(node, right = null, down = null) {
    const from = this.layout.places.get(node);
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

// What was pinned, hidden and chosen, for as long as the tab is open; browsers may refuse storage to files.
const graphState = {
  read(graph) {
    const byId = new Map(graph.nodes.map((node) => [node.id, node]));
    const known = (ids) => (ids ?? []).map((id) => byId.get(id)).filter(Boolean);
    try {
      const kept = JSON.parse(sessionStorage.getItem(graph.key)) ?? {};
      return { pinned: known(kept.pinned), hidden: known(kept.hidden), chosen: byId.get(kept.chosen), least: kept.least };
    } catch {
      return { pinned: [], hidden: [] };
    }
  },

  write({ graph, pinned, hidden, chosen, least }) {
    const ids = (nodes) => [...nodes].map((node) => node.id);
    try {
      sessionStorage.setItem(graph.key, JSON.stringify({ pinned: ids(pinned), hidden: ids(hidden), chosen: chosen.id, least }));
    } catch {
      // Then the state lasts until the page is left.
    }
  },
};

// The graphs that can be opened, with the box that they are picked from.
const graphs = {
  list: [],

  start() {
    const source = document.getElementById("graph-data");
    if (!source) return;
    this.section = document.getElementById("circuits");
    this.pick = this.section.querySelector("#graph-pick");
    this.pick.addEventListener("change", () => this.open(this.list[Number(this.pick.value)]));
    for (const data of JSON.parse(source.textContent)) this.keep(new Graph(data));
    if (this.list.length) this.open(this.list[0]);
  },

  keep(graph) {
    this.pick.append(element("option", { value: this.list.length }, graph.data.name));
    this.list.push(graph);
    this.pick.parentElement.hidden = this.list.length < 2;
    return graph;
  },

  // Adds a graph, as graphs_section.py packs it, and opens it.
  add(data) {
    this.open(this.keep(new Graph(data)));
  },

  open(graph) {
    this.view ??= new GraphView(this.section);
    this.pick.value = this.list.indexOf(graph);
    this.view.open(graph);
  },
};

graphs.start();
