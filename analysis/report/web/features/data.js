// What the page knows about features: the JSON of features_section.py, and how to look things up in it.
//
// A feature is {layer, side, place}: its side is "in" or "out", its place the index in all lists of that side.

const featureData = {
  all: null,
  layers: new Map(),

  read(element) {
    this.all = JSON.parse(element.textContent);
    this.all.layers.forEach((layer) => this.layers.set(layer.layer, layer));
  },

  // The lists of a feature's side.
  lists({ layer, side }) {
    return this.layers.get(layer)[side];
  },

  features(layer, side) {
    return this.layers.get(layer)[side].id.map((_, place) => ({ layer, side, place }));
  },

  first() {
    const [layer, place] = this.all.first;
    return { layer, side: "out", place };
  },

  // What a feature is called: its number, and the tokens at its highest peaks.
  number(feature) {
    return this.lists(feature).id[feature.place];
  },

  tokens(feature) {
    return this.lists(feature).name[feature.place];
  },

  name(feature) {
    return `#${this.number(feature)} ${this.tokens(feature)}`.trim();
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
    const [layer, side] = [Number(parts[1]), parts[2]];
    const place = this.layers.get(layer)?.[side].id.indexOf(Number(parts[3])) ?? -1;
    return place < 0 ? undefined : { layer, side, place };
  },

  // A token as running text, and on one line with its blanks to be seen.
  text(token) {
    return this.all.tokens[token];
  },

  label(token) {
    return this.text(token).replaceAll(" ", "␣") || "⟨empty⟩";
  },

  special(token) {
    return this.all.special.includes(token);
  },

  // Flat lists of records, as records.
  records(list, size) {
    return Array.from({ length: list.length / size }, (_, i) => list.slice(i * size, (i + 1) * size));
  },

  // Passages around a feature's peaks: tokens with their codes, and which of them is the peak.
  contexts(feature) {
    const { windows, width, skip } = this.all;
    return this.lists(feature).contexts[feature.place].map(([number, position, ...codes]) => {
      const byOffset = new Map(this.records(codes, 2));
      const start = Math.max(skip, position - width);
      const tokens = windows[number].slice(start, position + width + 1);
      const values = tokens.map((_, i) => byOffset.get(start + i - position) ?? 0);
      return { tokens, values, peak: position - start, value: byOffset.get(0) };
    });
  },
};
