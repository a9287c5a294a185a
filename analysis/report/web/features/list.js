// The controls that pick a feature: layer, side, search, order, and the list.

const ORDERS = {
  active: (lists, place) => -lists.active[place],
  number: (_, place) => place,
  explained: (lists, place) => -(lists.explained?.[place] ?? -2),
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
    this.shown = []; // places
    this.current = null;
    this.filled = null; // the lists that `shown` is of
    this.rows = new Rows(this.list, (at) => {
      const feature = this.feature(this.shown[at]);
      return [element("b", {}, `#${featureData.number(feature)}`), ` ${featureData.tokens(feature)}`];
    });
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
      if (option) this.pick(this.feature(this.shown[Number(option.dataset.at)]), false);
    });
  }

  // The side that the controls say.
  get chosen() {
    return { layer: Number(this.layer.value), side: this.side.value };
  }

  feature(place) {
    return { ...this.chosen, place };
  }

  // Another layer or side was chosen: its first feature is shown.
  async changed() {
    this.search.value = "";
    if ((await this.fill()) && this.shown.length) this.pick(this.feature(this.shown[0]), false);
  }

  // Marks a feature as the chosen one, on its own layer and side.
  mark(feature) {
    this.current = feature;
    const [layer, side] = [String(feature.layer), feature.side];
    if (this.layer.value === layer && this.side.value === side && this.filled === featureData.lists(feature)) {
      return this.select();
    }
    this.layer.value = layer;
    this.side.value = side;
    this.search.value = "";
    return this.fill();
  }

  // Lists the features that the controls ask for, once their names are read. Whether they are still asked for.
  async fill() {
    const { side } = this.chosen;
    const lists = featureData.lists(this.chosen);
    for (const option of this.order.options) option.disabled = side === "in" && "out" === option.dataset.of;
    if (this.order.selectedOptions[0].disabled) this.order.value = "active";
    if (!lists.name) {
      this.empty("Reading …");
      try {
        await featureData.readList(this.chosen);
      } catch (error) {
        if (lists === featureData.lists(this.chosen)) this.empty(error.message);
        return false;
      }
      if (lists !== featureData.lists(this.chosen)) return false;
    }
    this.filled = lists;
    const sought = this.search.value.trim().toLowerCase().replaceAll(" ", "␣");
    this.shown = this.sorted(lists, sought);
    this.rows.fill(this.shown.length);
    const all = lists.nFeat > lists.n ? ` of ${lists.nFeat}, the most active` : "";
    const kept = sought ? ` of ${lists.n}` : "";
    this.count.textContent = `${this.shown.length}${kept}${all} feature${this.shown.length === 1 ? "" : "s"}`;
    this.select();
    return true;
  }

  empty(says) {
    this.filled = null;
    this.shown = [];
    this.rows.fill(0);
    this.select();
    this.count.textContent = says;
  }

  // Places of the features whose number or name has what is sought, in the order that was chosen.
  sorted(lists, sought) {
    lists.sought ??= lists.name.map((name, place) => `#${numberAt(lists, place)} ${name}`.toLowerCase());
    const places = [];
    for (let place = 0; place < lists.n; place++) if (lists.sought[place].includes(sought)) places.push(place);
    const key = ORDERS[this.order.value];
    const keys = places.map((place) => key(lists, place));
    return places.map((_, i) => i).sort((a, b) => keys[a] - keys[b] || a - b).map((i) => places[i]);
  }

  // Marks the current feature in the list, if it is there, and brings it into view.
  select() {
    this.rows.choose(this.at());
  }

  at() {
    const { current } = this;
    if (current?.layer !== this.chosen.layer || current.side !== this.chosen.side) return -1;
    return this.shown.indexOf(current.place);
  }

  move(steps) {
    if (!this.shown.length) return;
    const at = this.at();
    const next = at < 0 ? 0 : Math.min(Math.max(at + steps, 0), this.shown.length - 1);
    if (next !== at) this.pick(this.feature(this.shown[next]), false);
  }

  searched(event) {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    this.list.focus();
    if (this.at() < 0) this.move(0);
  }

  pressed(event) {
    const { page } = this.rows;
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
