// Graphs of what a value is made of: the JSON of graphs_section.py, as nodes that know their edges.

const GRAPH_KINDS = {
  target: "Target",
  logit: "Logit",
  feature: "Feature",
  eigenvector: "Eigenvector",
  direction: "What an MLP writes",
  interaction: "Interaction",
  head: "Head",
  score: "Attention score",
  token: "Token",
  error: "Error",
  bias: "Bias",
  supernode: "Supernode",
};

class Graph {
  constructor(data) {
    this.data = data;
    this.texts = data.texts;
    const changes = new Map((data.checked ?? []).map(([place, ...numbers]) => [place, numbers]));
    this.nodes = data.id.map((id, i) => ({
      id,
      place: i,
      kind: data.kind[i],
      layer: data.layer[i],
      position: data.position[i],
      number: data.index[i],
      site: data.site[i],
      label: data.label[i],
      value: data.value[i],
      slope: data.slope[i],
      strength: data.strength[i],
      left: data.left[i],
      carried: data.carried?.[i] ?? null,
      changes: namedChanges(changes.get(i)),
      into: [],
      outOf: [],
    }));
    this.edges = featureData.records(data.edges, 6).map(([source, target, weight, part, slope, grouped]) => ({
      source: this.nodes[source],
      target: this.nodes[target],
      weight,
      part,
      slope,
      grouped,
    }));
    this.target = this.nodes[data.target];
    this.finish();
    this.rows = this.findRows();
  }

  // Joins edges to their nodes, the strongest first, by the number that the graph was chosen by.
  finish() {
    for (const edge of this.edges) {
      edge.amount = this.data.by === "slope" ? edge.slope : edge.weight;
      edge.target.into.push(edge);
      edge.source.outOf.push(edge);
    }
    const size = (edge) => Math.abs(edge.amount);
    for (const node of this.nodes) {
      node.into.sort((a, b) => size(b) - size(a));
      node.outOf.sort((a, b) => size(b) - size(a));
    }
    this.byStrength = [...this.nodes].sort((a, b) => b.strength - a.strength);
    this.byId = new Map(this.nodes.map((node) => [node.id, node]));
    this.byPlace = new Map(this.nodes.map((node) => [node.place, node]));
  }

  // What it is a graph of, by the name that its target has on the page.
  title() {
    const { name } = this.data;
    const { label } = this.target;
    return label && name.startsWith(label) ? `${this.name(this.target)}${name.slice(label.length)}` : name;
  }

  // Shares of the target, the largest first, of the nodes that have some.
  get strengths() {
    return this.byStrength.map((node) => node.strength).filter((strength) => strength > 0);
  }

  get hasSlopes() {
    return this.target.slope !== null;
  }

  // A few characters that tell this graph from others: the same target, prompt and nodes have the same.
  get key() {
    this.ownKey ??= hashed([this.target.id, ...(this.texts ?? []), ...this.nodes.map((node) => node.id)].join("\n"));
    return this.ownKey;
  }

  // Steps of the computation, from tokens (0) up: heads, what an MLP reads, interactions, what it writes.
  findRows() {
    const steps = { head: 1, score: 1, eigenvector: 2, interaction: 3, direction: 4 };
    const rows = new Map();
    for (const node of this.nodes) {
      if (node.layer === null || node.kind === "token") rows.set(node, 0);
      else rows.set(node, 4 * node.layer + (steps[node.kind] ?? (node.site?.endsWith("mlp-out") ? 4 : 2)));
    }
    const others = this.nodes.filter((node) => node !== this.target && node.kind !== "bias");
    rows.set(this.target, 1 + Math.max(...others.map((node) => rows.get(node)), 0));
    // Biases stand beside the lowest of what they are part of.
    for (const node of this.nodes) {
      if (node.kind === "bias" && node.outOf.length) {
        const lowest = Math.min(...node.outOf.map((edge) => rows.get(edge.target)));
        rows.set(node, Math.min(lowest, rows.get(this.target) - 1));
      }
    }
    return rows;
  }

  // Feature of the features section that a node is, if the page has it.
  feature(node) {
    if (node.kind !== "feature") return null;
    const side = node.site.endsWith("mlp-out") ? "out" : "in";
    const found = featureData.find(`#layer-${node.layer}-${side}-${node.number}`);
    return found && featureData.lists(found).site === node.site ? found : null;
  }

  // What a node is called, in few words and in full.
  name(node) {
    if (node.kind === "supernode") return node.name;
    if (this.base) return this.base.name(this.base.nodes[node.place]);
    if (node.kind === "interaction") {
      const inputs = node.into.map((edge) => this.name(edge.source));
      return inputs.length === 1 ? `(${inputs[0]})²` : inputs.join(" × ");
    }
    if (node.kind === "error") return `error at ${node.site}`;
    if (node.kind === "direction") return `MLP ${node.layer}${this.reader(node)}`;
    if (node.kind === "eigenvector") return `eigenvector ${node.number} of MLP ${node.layer}`;
    if (node.kind === "head") return `head ${node.layer}.${node.number}${this.reader(node)}`;
    if (node.kind === "bias") return node.id;
    if (node.kind === "score") return `head ${node.layer}.${node.number} looking at ${this.token(node.key)}`;
    const feature = this.feature(node);
    if (feature) return featureData.name(feature, node.label);
    return node.label || (node.kind === "feature" ? `#${node.number}` : node.id);
  }

  // What reads a node that stands for one way of reading it; the target is read by none.
  reader(node) {
    const reader = node.outOf.length === 1 ? node.outOf[0].target : this.target;
    return reader === this.target ? "" : ` for ${this.name(reader)}`;
  }

  // With layer and position, which tell nodes of one name apart.
  fullName(node) {
    return [this.name(node), this.where(node)].filter(Boolean).join(", ");
  }

  // As a label: the tokens of a feature without its number.
  shortName(node) {
    if (node.kind === "interaction" || node.kind === "direction") return "";
    if (node.kind === "error") return "error";
    if (node.kind === "head") return `head ${node.layer}.${node.number}`;
    if (node.kind === "eigenvector") return `eigenvector ${node.number}`;
    if (node.kind === "score") return `look ${node.layer}.${node.number}`;
    if (node.kind === "logit") return this.name(node).split(" - ")[0];
    const name = this.name(node);
    return node.kind === "feature" ? name.replace(/^#\d+ (?=.)/, "") : name;
  }

  kindName(node) {
    if (node.kind !== "feature") return GRAPH_KINDS[node.kind];
    return node.site.endsWith("mlp-out") ? "Output feature" : "Input feature";
  }

  where(node) {
    const positions = this.positions(node);
    const each = positions.map((position) => `${this.token(position)} (${position})`);
    const at = each.length > 3 ? `at ${each.length} tokens` : each.length ? `at ${each.join(", ")}` : "";
    const layer = node.layer === null || node.name?.includes(`layer ${node.layer}`) ? "" : `layer ${node.layer}`;
    return [layer, at].filter(Boolean).join(" ");
  }

  positions(node) {
    const all = (node.members ?? [node]).map(({ position }) => position).filter((position) => position !== null);
    return [...new Set(all)].sort((a, b) => a - b);
  }

  token(position) {
    const text = this.texts?.[position];
    return text === undefined ? `position ${position}` : visible(text);
  }

  // At which positions what makes up a node is found, as far as it is followed: parts of its contributions with
  // their signs. What is not split further counts where it is. Those of a supernode count by their shares, and
  // what one of them adds to another not twice.
  origins(node) {
    if (this.base) return this.base.origins(node.members ? node : this.base.nodes[node.place]);
    const sign = (at) => Math.sign(at.value ?? 1) || 1;
    const members = new Set(node.members ?? [node]);
    const whole = [...members].reduce((sum, at) => sum + at.strength, 0) || 1;
    const flow = new Map([...members].map((at) => [at, sign(at) * (node.members ? at.strength / whole : 1)]));
    const found = new Map();
    const add = (sums, key, more) => sums.set(key, (sums.get(key) ?? 0) + more);
    for (const at of this.below(members)) {
      const own = flow.get(at) ?? 0;
      const rest = Math.max(0, 1 - at.into.reduce((sum, edge) => sum + edge.part, 0));
      if (at.position !== null) add(found, at.position, own * rest);
      for (const edge of at.into) {
        if (members.has(edge.source)) continue;
        // A product grows with each of its inputs, whatever their signs.
        const turn = at.kind === "interaction" ? 1 : Math.sign(edge.amount) * sign(at);
        add(flow, edge.source, own * edge.part * turn);
      }
    }
    return found;
  }

  // Nodes and all that leads to them, each after everything of these that it leads to.
  below(nodes) {
    const order = [];
    const seen = new Set();
    const visit = (start) => {
      const stack = [[start, 0]];
      seen.add(start);
      while (stack.length) {
        const top = stack[stack.length - 1];
        const edge = top[0].into[top[1]++];
        if (!edge) order.push(stack.pop()[0]);
        else if (!seen.has(edge.source)) {
          seen.add(edge.source);
          stack.push([edge.source, 0]);
        }
      }
    };
    for (const node of nodes) if (!seen.has(node)) visit(node);
    return order.reverse();
  }
}

// What happened without a node: as predicted and as measured, with everything free and with attention and norms held.
function namedChanges(numbers) {
  if (!numbers) return null;
  const [predicted, free, predictedHeld, held, randomFree, randomHeld] = numbers;
  return { predicted, free, predictedHeld, held, randomFree, randomHeld };
}

// A text as a short code (FNV-1a, 32 bits).
function hashed(text) {
  let code = 0x811c9dc5;
  for (const unit of new TextEncoder().encode(text)) code = Math.imul(code ^ unit, 0x01000193) >>> 0;
  return code.toString(36);
}
