// The controls that pick a feature: layer, side, search, order, and the list.

const ORDERS = {
  active: (lists, place) => -lists.active[place],
  number: (lists, place) => lists.id[place],
  explained: (lists, place) => -(lists.activeOnly?.[place][1] ?? lists.activeOnly?.[place][0] ?? -2),
  strength: (lists, place) => -(lists.strength?.[place] ?? 0),
};

class FeatureList {
  constructor(form, pick) {
    this.pick = pick;
    [this.layer, this.side, this.search, this.order, this.list, this.count] = [
      "layer",
      "side",
      "search",
      "order",
      "list",
      "count",
    ].map((name) => form.querySelector(`#pick-${name}`));
    this.shown = [];
    this.current = null;
    for (const number of featureData.layers.keys()) {
      this.layer.append(element("option", { value: number }, `Layer ${number}`));
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const select of [this.layer, this.side]) select.addEventListener("change", () => this.changed());
    this.order.addEventListener("change", () => this.fill());
    this.search.addEventListener("input", () => this.fill());
    this.search.addEventListener("keydown", (event) => this.searched(event));
    this.list.addEventListener("keydown", (event) => this.pressed(event));
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.pick(this.shown[Number(option.dataset.at)], false);
    });
  }

  // Another layer or side was chosen: its first feature is shown.
  changed() {
    this.search.value = "";
    this.fill();
    if (this.shown.length) this.pick(this.shown[0], false);
  }

  // Marks a feature as the chosen one, on its own layer and side.
  mark(feature) {
    this.current = feature;
    const [layer, side] = [String(feature.layer), feature.side];
    if (this.layer.value !== layer || this.side.value !== side || !this.list.childElementCount) {
      this.layer.value = layer;
      this.side.value = side;
      this.search.value = "";
      this.fill();
    } else {
      this.select();
    }
  }

  fill() {
    const [layer, side] = [Number(this.layer.value), this.side.value];
    const lists = featureData.lists({ layer, side });
    for (const option of this.order.options) option.disabled = side === "in" && "out" === option.dataset.of;
    if (this.order.selectedOptions[0].disabled) this.order.value = "active";
    const key = ORDERS[this.order.value];
    const sought = this.search.value.trim().toLowerCase().replaceAll(" ", "␣");
    this.shown = featureData
      .features(layer, side)
      .filter((feature) => featureData.name(feature).toLowerCase().includes(sought))
      .map((feature) => [key(lists, feature.place), feature])
      .sort(([a], [b]) => a - b)
      .map(([, feature]) => feature);
    const options = this.shown.map((feature, at) =>
      element(
        "li",
        { role: "option", id: `option-${feature.place}`, "data-at": at, "aria-selected": "false" },
        element("b", {}, `#${featureData.number(feature)}`),
        ` ${featureData.tokens(feature)}`,
      ),
    );
    this.list.replaceChildren(...options);
    const all = lists.nFeat > lists.id.length ? ` of ${lists.nFeat}, the most active` : "";
    const kept = sought ? ` of ${lists.id.length}` : "";
    this.count.textContent = `${this.shown.length}${kept}${all} feature${this.shown.length === 1 ? "" : "s"}`;
    this.select();
  }

  // Marks the current feature in the list, if it is there, and brings it into view.
  select() {
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const option = this.list.children[this.at()];
    if (!option) return this.list.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", option.id);
    const [top, bottom] = [option.offsetTop, option.offsetTop + option.offsetHeight];
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    const below = bottom - this.list.clientHeight;
    if (below > this.list.scrollTop) this.list.scrollTop = below;
  }

  at() {
    const { current } = this;
    if (current?.layer !== Number(this.layer.value) || current.side !== this.side.value) return -1;
    return this.shown.findIndex(({ place }) => place === current.place);
  }

  move(steps) {
    if (!this.shown.length) return;
    const at = this.at();
    const next = at < 0 ? 0 : Math.min(Math.max(at + steps, 0), this.shown.length - 1);
    if (next !== at) this.pick(this.shown[next], false);
  }

  searched(event) {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    this.list.focus();
    if (this.at() < 0) this.move(0);
  }

  pressed(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / (this.list.firstChild?.offsetHeight || 1)) - 1);
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -this.shown.length,
      End: this.shown.length,
    }[event.key];
    if (event.key === "Enter" && this.current) this.pick(this.current, true);
    else if (steps) this.move(steps);
    else return;
    event.preventDefault();
  }
}
