// What somebody has made of a graph: nodes chosen, pinned, hidden, grouped and written about. Nodes by their ids.
//
// As a file it is what analysis.graphs.view reads and writes.

const VIEW_FORMAT = "bilinear-lm graph view";
const FIRST_SHOWN = 250;

class GraphState {
  constructor(base) {
    this.base = base;
    this.chosen = base.target.id;
    this.pinned = new Set();
    this.hidden = new Set();
    this.least = base.strengths[FIRST_SHOWN] ?? 0;
    this.groups = [];
    this.notes = new Map();
  }

  // The graph as it is shown: closed groups are one node each.
  graph() {
    return groupedGraph(this.base, this.groups.filter((group) => !group.open));
  }

  group(id) {
    return this.groups.find((group) => supernodeId(group.name) === id);
  }

  groupOf(id) {
    return this.groups.find((group) => group.nodes.includes(id));
  }

  // Groups nodes under a name; they leave the groups that they were in. What was said of a name is of that alone.
  add(name, ids) {
    const nodes = [...new Set(ids)].filter((id) => id !== this.base.target.id && this.base.byId.has(id));
    if (!nodes.length) return null;
    for (const group of this.groups) group.nodes = group.nodes.filter((id) => !nodes.includes(id));
    for (const group of this.groups.filter((group) => !group.nodes.length)) this.dissolve(group);
    const group = { name: this.freeName(name), nodes, open: false };
    this.groups.push(group);
    return group;
  }

  freeName(name, except = null) {
    const wanted = name.trim() || "group";
    const taken = new Set(this.groups.filter((group) => group !== except).map((group) => group.name));
    let own = wanted;
    for (let n = 2; taken.has(own); n++) own = `${wanted} (${n})`;
    return own;
  }

  rename(group, name) {
    const old = supernodeId(group.name);
    group.name = this.freeName(name, group);
    const id = supernodeId(group.name);
    if (id === old) return;
    for (const set of [this.pinned, this.hidden]) if (set.delete(old)) set.add(id);
    if (this.chosen === old) this.chosen = id;
    if (this.notes.has(old)) this.notes.set(id, this.notes.get(old));
    this.notes.delete(old);
  }

  dissolve(group) {
    const id = supernodeId(group.name);
    this.groups.splice(this.groups.indexOf(group), 1);
    for (const set of [this.pinned, this.hidden, this.notes]) set.delete(id);
    if (this.chosen === id) this.chosen = group.nodes[0] ?? this.base.target.id;
  }

  note(id, text) {
    if (text.trim()) this.notes.set(id, text);
    else this.notes.delete(id);
  }

  toJSON() {
    return {
      format: VIEW_FORMAT,
      version: 1,
      target: this.base.target.id,
      texts: this.base.texts,
      chosen: this.chosen,
      pinned: [...this.pinned],
      hidden: [...this.hidden],
      least: this.least,
      supernodes: this.groups.map(({ name, nodes, open }) => ({ name, nodes, open })),
      notes: Object.fromEntries(this.notes),
    };
  }

  // The state in a file's text; an Error whose message says in one sentence why it cannot be opened.
  static parse(text, base) {
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      throw new Error("This is not a JSON file.");
    }
    if (value?.format !== VIEW_FORMAT || value.version !== 1) throw new Error("This file is not a view of a graph, as this page saves it.");
    return GraphState.from(value, base);
  }

  static from(value, base) {
    const texts = (list) => Array.isArray(list) && list.every((entry) => typeof entry === "string");
    const isNotes = (notes) => notes && typeof notes === "object" && texts(Object.values(notes));
    const isGroup = (group) => group && typeof group.name === "string" && group.name.trim() && texts(group.nodes) && group.nodes.length && typeof group.open === "boolean";
    const { pinned, hidden, least, supernodes, notes, chosen } = value;
    const wellFormed =
      texts(pinned) && texts(hidden) && isNotes(notes) && Array.isArray(supernodes) && supernodes.every(isGroup) &&
      least >= 0 && least <= 1 && (chosen === null || typeof chosen === "string");
    if (!wellFormed) throw new Error("This view is damaged: parts of it are missing or of another kind.");
    if (value.target !== base.target.id || JSON.stringify(value.texts) !== JSON.stringify(base.texts)) {
      throw new Error(`This view belongs to another graph: that of ${value.target}${value.texts ? ` on “${value.texts.join?.("").trim()}”` : ", from weights alone"}.`);
    }
    const members = supernodes.flatMap((group) => group.nodes);
    const groups = new Set(supernodes.map((group) => supernodeId(group.name)));
    const named = [...(chosen === null ? [] : [chosen]), ...pinned, ...hidden, ...Object.keys(notes)].filter((id) => !groups.has(id));
    const unknown = [...members, ...named].find((id) => !base.byId.has(id));
    if (unknown) throw new Error(`This view names a node that is not in the graph: ${unknown}.`);
    if (new Set(members).size < members.length || groups.size < supernodes.length || members.includes(base.target.id)) {
      throw new Error("This view is damaged: its supernodes share nodes or names, or have the target.");
    }
    const state = new GraphState(base);
    return Object.assign(state, {
      chosen: chosen ?? base.target.id,
      pinned: new Set(pinned),
      hidden: new Set(hidden),
      least,
      groups: supernodes.map(({ name, nodes, open }) => ({ name, nodes: [...nodes], open })),
      notes: new Map(Object.entries(notes)),
    });
  }
}
