// A view in the address of the page, behind #: which graph, and nodes by their numbers in it, so that a link shows
// the same; and for as long as the tab is open, where an address has gone on to another part of the page.

const graphAddress = {
  PREFIX: "#graph=",
  CIRCUIT: "#circuit-",

  // graph: the key; c: chosen; p: pinned; h: hidden; l: least share; s: open_nodes_name, or open_rule_number where a
  // rule has found the group; n: node_text.
  hash(state) {
    const { base, groups } = state;
    const short = (id) => base.byId.get(id)?.place ?? `g${groups.findIndex((group) => supernodeId(group.name) === id)}`;
    const list = (ids) => [...ids].map(short).join(".");
    const parts = new URLSearchParams();
    if (state.chosen !== base.target.id) parts.append("c", short(state.chosen));
    if (state.pinned.size) parts.append("p", list(state.pinned));
    if (state.hidden.size) parts.append("h", list(state.hidden));
    parts.append("l", Number(state.least.toPrecision(5)));
    for (const group of groups) {
      const { name, nodes, open } = group;
      parts.append("s", `${open ? 1 : 0}_${this.ruled(base, group) ?? `${list(nodes)}_${name}`}`);
    }
    for (const [id, text] of state.notes) parts.append("n", `${short(id)}_${text}`);
    return `${this.PREFIX}${base.key}&${parts}`;
  },

  // A group as a rule has found it, in a few characters; null where it is another.
  ruled(base, { name, nodes }) {
    for (const [rule, groups] of Object.entries(base.data.groups)) {
      const number = groups.findIndex(([own]) => own === name);
      const same = number >= 0 && groups[number][1].map((place) => base.nodes[place].id).join("\n") === nodes.join("\n");
      if (same) return `${rule}_${number}`;
    }
    return null;
  },

  // The key of the graph that an address is of; null where it is of none.
  names(hash) {
    return hash.startsWith(this.PREFIX) ? new URLSearchParams(hash.slice(1)).get("graph") : null;
  },

  // The feature LAYER-POINT-NUMBER whose circuit a link leads to; null for any other address.
  circuit(hash) {
    return hash.startsWith(this.CIRCUIT) ? hash.slice(this.CIRCUIT.length) : null;
  },

  // The view of an address among graphs; null where it is none, an Error where it cannot be shown.
  parse(hash, graphs) {
    if (!hash.startsWith(this.PREFIX)) return null;
    const parts = new URLSearchParams(hash.slice(1));
    const base = graphs.find((graph) => graph.key === parts.get("graph"));
    if (!base) throw new Error("The address is of a graph that is not on this page.");
    const groups = parts.getAll("s").map((text) => {
      const [open, nodes, ...name] = text.split("_");
      const found = base.data.groups[nodes]?.[name[0]];
      if (found) return { name: found[0], nodes: found[1].map((place) => base.nodes[place].id), open: open === "1" };
      return { name: name.join("_"), nodes: nodes.split(".").map((place) => base.nodes[place]?.id ?? place), open: open === "1" };
    });
    const id = (short) => (short.startsWith("g") ? supernodeId(groups[short.slice(1)]?.name) : (base.nodes[short]?.id ?? short));
    const list = (name) => (parts.get(name) ?? "").split(".").filter(Boolean).map(id);
    const notes = parts.getAll("n").map((text) => [id(text.split("_")[0]), text.slice(text.indexOf("_") + 1)]);
    return GraphState.from(
      {
        target: base.target.id,
        texts: base.texts,
        chosen: parts.has("c") ? id(parts.get("c")) : null,
        pinned: list("p"),
        hidden: list("h"),
        least: Number(parts.get("l")),
        supernodes: groups,
        notes: Object.fromEntries(notes),
      },
      base,
    );
  },

  // Browsers may refuse either to a file or a frame; then the view lasts until the page is left.
  write(state) {
    try {
      sessionStorage.setItem(`graph ${state.base.key}`, JSON.stringify(state));
    } catch {
      // The address remains.
    }
    try {
      history.replaceState(history.state, "", this.hash(state));
    } catch {
      // The tab remembers.
    }
  },

  // What the tab remembers of a graph, or its first view.
  remembered(base) {
    try {
      return GraphState.parse(sessionStorage.getItem(`graph ${base.key}`), base);
    } catch {
      return new GraphState(base);
    }
  },
};
