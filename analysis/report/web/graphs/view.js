// The graph part of the page: what is drawn and told of a graph, and what keys and buttons do to its state.

class GraphView {
  constructor(section) {
    const find = (id) => section.querySelector(`#graph-${id}`);
    for (const name of ["canvas", "filter", "status", "all", "legend", "faith"]) this[name] = find(name);
    Object.assign(this, { stage: find("stage"), article: find("node"), filterText: find("filter-text"), showAll: find("show-all"), faithLine: find("faith-line") });
    this.picture = new GraphPicture(this.canvas, find("tip"));
    this.selection = new GroupBar(section, this);
    this.prompt = new PromptView(find("prompt"), find("answer"), find("prompt-note"), (position) => {
      this.position = position;
      this.mark();
    });
    this.actions = this.makeActions();
    this.filter.addEventListener("input", () => {
      this.state.least = 10 ** Number(this.filter.value);
      this.changed();
    });
    this.showAll.addEventListener("click", () => this.restore());
    this.all.addEventListener("toggle", () => this.list());
    this.canvas.addEventListener("click", (event) => this.clicked(event));
    this.canvas.addEventListener("keydown", (event) => this.pressed(event));
    this.article.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    // In a narrow window the details lie over the page: they close where one goes on to another part of it.
    document.addEventListener("focusin", ({ target }) => {
      if (![this.article, this.canvas].some((part) => part.contains(target))) this.article.classList.remove("opened");
    });
    find("save").addEventListener("click", () => this.download());
    find("open").addEventListener("change", (event) => this.upload(event.target));
    new ResizeObserver(() => {
      if (this.state && this.canvas.clientWidth !== this.picture.width) this.draw();
    }).observe(this.canvas);
  }

  makeActions() {
    return {
      isPinned: (node) => this.state.pinned.has(node.id),
      isMarked: (node) => this.selection.marked.has(node.id),
      noteOf: (node) => this.state.notes.get(node.id) ?? "",
      groupOf: (node) => this.state.groupOf(node.id),
      pin: (node) => this.pin(node),
      hide: (node) => this.hide(node),
      mark: (node) => this.toggle(node),
      note: (node, text) => {
        this.state.note(node.id, text);
        this.save();
      },
      rename: (node, name) => {
        const group = this.state.group(node.id);
        this.state.rename(group, name);
        this.regrouped(`Called ${group.name}.`, "rename");
      },
      openGroup: (node) => {
        const group = this.state.group(node.id);
        group.open = true;
        this.state.chosen = group.nodes[0];
        this.regrouped(`${group.name} is open.`, "close-group");
      },
      closeGroup: (group) => {
        group.open = false;
        this.state.chosen = supernodeId(group.name);
        this.regrouped(`${group.name} is one node.`, "open-group");
      },
      dissolve: (node) => {
        const group = this.state.group(node.id);
        this.state.dissolve(group);
        this.regrouped(`${group.name} is dissolved.`, "pin");
      },
      select: (node, entered) => this.select(node, entered),
      close: () => this.close(),
    };
  }

  // Shows a graph, as it was left or as `state` says.
  open(base, state = graphAddress.remembered(base)) {
    this.base = base;
    this.state = state;
    this.graph = state.graph();
    this.position = null;
    this.stage.hidden = false;
    const { strengths } = base;
    const low = Math.log10(strengths.at(-1) ?? 1e-6);
    const high = Math.log10(Math.max(strengths[Math.min(5, strengths.length - 1)] ?? 1, strengths.at(-1) ?? 0));
    Object.assign(this.filter, { min: Math.floor(100 * low) / 100, max: Math.ceil(100 * high) / 100, step: 0.01 });
    this.filter.value = state.least ? Math.log10(state.least) : this.filter.min;
    this.prompt.open(base);
    this.selection.open(base);
    this.faithLine.replaceChildren(...faithLine(base));
    this.faith.replaceChildren(...faithDetails(base, this.actions));
    this.draw();
    this.showChosen();
  }

  // The node whose details are shown; it may be inside of a supernode.
  get chosen() {
    const { chosen } = this.state;
    return this.graph.byId.get(chosen) ?? this.base.byId.get(chosen) ?? this.graph.target;
  }

  // The node of the picture that is or has a node.
  standing(id) {
    const group = this.state.groupOf(id);
    return this.graph.byId.get(id) ?? (group && this.graph.byId.get(supernodeId(group.name))) ?? this.graph.target;
  }

  isShown(node) {
    const { state } = this;
    if (state.hidden.has(node.id)) return false;
    return node === this.graph.target || node === this.standing(state.chosen) || state.pinned.has(node.id) || node.strength >= state.least;
  }

  draw() {
    this.picture.draw(this.graph, (node) => this.isShown(node));
    this.legend.replaceChildren(...graphLegend(this.graph));
    this.mark();
    this.count();
    this.list();
  }

  mark() {
    const { pinned, chosen } = this.state;
    this.picture.mark({ chosen: this.standing(chosen), pinned, selected: this.selection.marked, position: this.position });
    this.prompt.show(this.chosen, this.position);
  }

  select(node, entered = false) {
    this.state.chosen = node.id;
    this.state.hidden.delete(node.id);
    this.save();
    if (this.picture.layout.places.has(this.standing(node.id))) this.mark();
    else this.draw();
    this.showChosen();
    this.article.classList.add("opened");
    if (entered) this.enter();
    else this.uncover();
  }

  // Where the details lie over the picture, the chosen node is brought out from under them.
  uncover() {
    if (getComputedStyle(this.article).position !== "fixed") return;
    const node = this.picture.groups.get(this.standing(this.state.chosen));
    const hidden = node ? node.getBoundingClientRect().bottom + 12 - this.article.getBoundingClientRect().top : 0;
    if (hidden > 0) scrollBy({ top: hidden, behavior: "instant" });
  }

  enter() {
    this.article.classList.add("opened");
    document.getElementById("graph-node-title").focus({ preventScroll: true });
  }

  showChosen() {
    const node = this.chosen;
    showNode(this.article, this.graph.byId.has(node.id) ? this.graph : this.base, node, this.actions);
  }

  // Back from the details to the picture.
  close() {
    this.article.classList.remove("opened");
    this.picture.focus(this.standing(this.state.chosen));
  }

  pin(node) {
    const { pinned } = this.state;
    if (!pinned.delete(node.id)) pinned.add(node.id);
    this.tell(`${this.graph.fullName(node)} ${pinned.has(node.id) ? "pinned" : "not pinned"}`);
    this.changed();
    this.refocus("pin");
  }

  hide(node) {
    if (node.id === this.base.target.id) return this.tell("The target stays.");
    const next = this.picture.nearest(this.standing(node.id));
    this.state.hidden.add(node.id);
    this.state.pinned.delete(node.id);
    if (this.state.chosen === node.id) this.state.chosen = this.base.target.id;
    this.tell(`${this.graph.fullName(node)} hidden`);
    this.changed();
    if (!document.activeElement || document.activeElement === document.body) {
      this.picture.focus(next) || this.picture.focus(this.standing(this.state.chosen));
    }
  }

  toggle(node) {
    if (node.id === this.base.target.id) return this.tell("The target stays on its own.");
    this.selection.toggle(node.id);
    this.tell(`${this.graph.fullName(node)} ${this.selection.marked.has(node.id) ? "selected" : "not selected"}`);
    this.mark();
    this.showChosen();
    this.refocus("mark");
  }

  // Nodes as one; supernodes among them give up theirs.
  group(name, ids) {
    const nodes = ids.flatMap((id) => this.state.group(id)?.nodes ?? [id]);
    const group = this.state.add(name, nodes);
    if (!group) return;
    this.state.chosen = supernodeId(group.name);
    this.regrouped(`${group.nodes.length} nodes are ${group.name}.`, "rename");
  }

  // The groups of a rule of analysis.graphs.groups.
  groupBy(rule) {
    const groups = this.base.data.groups[rule] ?? [];
    for (const [name, places] of groups) this.state.add(name, places.map((place) => this.base.nodes[place].id));
    this.regrouped(`${groups.length} groups of nodes are one node each.`);
  }

  ungroup() {
    for (const group of [...this.state.groups]) this.state.dissolve(group);
    this.regrouped("Every node stands alone.");
  }

  regrouped(text, focus = null) {
    this.graph = this.state.graph();
    this.tell(text);
    this.changed();
    this.selection.show();
    if (focus) this.refocus(focus);
  }

  // After the buttons have been made anew.
  refocus(id) {
    // What is hidden keeps the focus until the window is drawn again.
    const { activeElement } = document;
    if (activeElement === document.body || !activeElement.checkVisibility()) document.getElementById(`graph-${id}`)?.focus({ preventScroll: true });
  }

  restore() {
    this.state.hidden.clear();
    this.state.least = 0;
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
    graphAddress.write(this.state);
  }

  download() {
    saveFile("graph-view.json", JSON.stringify(this.state, null, 1));
  }

  async upload(input) {
    const [file] = input.files;
    if (!file) return;
    try {
      this.open(this.base, GraphState.parse(await file.text(), this.base));
      this.save();
      this.tell(`${file.name} is opened.`, true);
    } catch (error) {
      this.tell(`${file.name}: ${error.message}`, true);
    }
    input.value = "";
  }

  count() {
    const { least, hidden } = this.state;
    const [shown, all] = [this.picture.layout.places.size, this.graph.nodes.length];
    const share = least ? `${percent(least)} or more of the target` : "any share";
    this.filterText.textContent = `${share}: ${shown} of ${all} nodes`;
    this.filter.setAttribute("aria-valuetext", this.filterText.textContent);
    this.showAll.textContent = hidden.size ? `Show all (${hidden.size} hidden)` : "Show all";
    this.showAll.disabled = shown === all;
  }

  list() {
    this.all.querySelector(".scroll")?.remove();
    if (!this.all.open) return;
    const nodes = this.graph.byStrength.filter((node) => this.picture.layout.places.has(node));
    this.all.append(nodeTable(this.graph, nodes, this.actions));
  }

  // To screen readers, and where it is an answer that is waited for, to the eye.
  tell(text, seen = false) {
    this.status.textContent = text;
    this.status.classList.toggle("unseen", !seen);
  }

  clicked(event) {
    const node = this.picture.nodeOf(event.target);
    if (!node) return;
    if (event.shiftKey) this.toggle(node);
    else this.select(node);
  }

  pressed(event) {
    const node = this.picture.nodeOf(event.target);
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const isChosen = node === this.standing(this.state.chosen);
    if (steps[event.key]) this.picture.move(node, ...steps[event.key]);
    else if (event.key === "Enter" && isChosen) this.enter();
    else if (event.key === "Enter" || event.key === " ") this.select(node);
    else if (event.key === "p") this.pin(node);
    else if (event.key === "h") this.hide(node);
    else if (event.key === "s") this.toggle(node);
    else if (event.key === "Escape") this.leave();
    else return;
    event.preventDefault();
  }

  // To the target, whose details close in a narrow window.
  leave() {
    this.select(this.base.target);
    this.article.classList.remove("opened");
    this.picture.focus(this.graph.target);
  }
}
