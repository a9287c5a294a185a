// What the page knows about features: the data of shards/content.py, and how to look things up in it.
//
// A feature is {layer, side, place}: its side is "in" or "out", its place the index in all lists of that side.
// The index is there from the start: which features there are. Names come with the list of a side (`readList`),
// everything else with the details of a feature (`read`).

// The number in its dictionary of the feature at a place of a side.
function numberAt(lists, place) {
  return lists.id?.[place] ?? place;
}

const featureData = {
  all: null,
  layers: new Map(),

  start(element) {
    this.all = JSON.parse(element.textContent);
    pageData.folder = element.dataset.folder ?? null;
    for (const layer of this.all.layers) {
      this.layers.set(layer.layer, layer);
      for (const side of ["in", "out"]) Object.assign(layer[side], { key: `${layer.layer}-${side}`, name: null });
    }
  },

  // What is known of a feature's side: the index, and its list where that was read.
  lists({ layer, side }) {
    return this.layers.get(layer)[side];
  },

  // Reads the list of a feature's side: names, and numbers to sort by.
  readList(feature) {
    const lists = this.lists(feature);
    lists.reading ??= pageData.get(`${lists.key}-list`).then(
      (list) => {
        Object.assign(lists, list);
        ownNames.listed(lists);
        return lists;
      },
      (error) => {
        lists.reading = null;
        throw error;
      },
    );
    return lists.reading;
  },

  // Reads all about a feature, and the names on both sides of its layer, to which it is linked.
  async read(feature) {
    const { key } = this.lists(feature);
    const number = Math.floor(feature.place / this.all.perShard);
    const sides = ["in", "out"].map((side) => this.readList({ layer: feature.layer, side }));
    const [piece] = await Promise.all([pageData.get(`${key}-${number}`), ...sides]);
    return this.details(piece, feature.place % this.all.perShard);
  },

  // The entries of one feature, from the columns of a piece.
  details(piece, at) {
    return Object.fromEntries(Object.entries(piece).map(([name, column]) => [name, column && column[at]]));
  },

  first() {
    const [layer, place] = this.all.first;
    return { layer, side: "out", place };
  },

  // What a feature is called: its number, and the tokens at its highest peaks.
  number(feature) {
    return numberAt(this.lists(feature), feature.place);
  },

  // Empty as long as the list was not read, but for a name that the reader gave.
  tokens(feature) {
    const lists = this.lists(feature);
    return lists.name ? lists.name[feature.place] : (ownNames.own(feature) ?? "");
  },

  // `made` stands for the whole name as long as there is no other.
  name(feature, made = "") {
    const tokens = this.tokens(feature);
    return tokens || !made ? `#${this.number(feature)} ${tokens}`.trim() : made;
  },

  title(feature) {
    const side = feature.side === "in" ? "Input" : "Output";
    return `${side} feature #${this.number(feature)} of layer ${feature.layer}`;
  },

  // The place of a feature in the address of the page.
  hash(feature) {
    return `#layer-${feature.layer}-${feature.side}-${this.number(feature)}`;
  },

  // The feature an address stands for; null where it stands for something else, undefined for one not here.
  find(hash) {
    const parts = /^#layer-(\d+)-(in|out)-(\d+)$/.exec(hash);
    if (!parts) return null;
    const [layer, side, number] = [Number(parts[1]), parts[2], Number(parts[3])];
    const lists = this.layers.get(layer)?.[side];
    const place = lists ? this.place(lists, number) : -1;
    return place < 0 ? undefined : { layer, side, place };
  },

  // Where a side has the feature of this number; −1 where it is not shown.
  place(lists, number) {
    if (!lists.id) return number < lists.n ? number : -1;
    lists.places ??= new Map(lists.id.map((id, place) => [id, place]));
    return lists.places.get(number) ?? -1;
  },

  // A token as running text, and on one line with its blanks to be seen.
  text(token) {
    return this.all.tokens[token];
  },

  label(token) {
    return visible(this.text(token));
  },

  special(token) {
    return this.all.special.includes(token);
  },

  // Flat lists of records, as records.
  records(list, size) {
    return Array.from({ length: list.length / size }, (_, i) => list.slice(i * size, (i + 1) * size));
  },

  // Passages around a feature's peaks, of its details: tokens with their codes, and which of them is the peak.
  contexts({ contexts }) {
    const { windows, width, skip } = this.all;
    return contexts.map(([number, position, ...codes]) => {
      const byOffset = new Map(this.records(codes, 2));
      const start = Math.max(skip, position - width);
      const tokens = windows[number].slice(start, position + width + 1);
      const values = tokens.map((_, i) => byOffset.get(start + i - position) ?? 0);
      return { tokens, values, peak: position - start, value: byOffset.get(0) };
    });
  },
};
