// The graphs of the page: which one is shown, and how more are added.

class GraphList {
  constructor(section) {
    this.section = section;
    this.pick = section.querySelector("#graph-pick");
    this.view = new GraphView(section);
    this.graphs = [];
    this.pick.addEventListener("change", () => this.show(this.graphs[Number(this.pick.value)]));
    addEventListener("hashchange", () => {
      if (this.route() && !section.contains(document.activeElement)) this.view.close();
    });
    // A feature has another name now.
    document.addEventListener("renamed", () => {
      this.graphs.forEach((graph, i) => (this.pick.options[i].textContent = graph.title()));
      if (this.view.graph) this.view.changed();
    });
  }

  // A graph that `packed` of graphs_section.py gave; it is shown at once, unless `show` is false.
  add(packed, show = true) {
    const graph = new Graph(packed);
    this.pick.append(element("option", { value: this.graphs.length }, graph.title()));
    this.graphs.push(graph);
    this.pick.parentElement.hidden = this.graphs.length < 2;
    if (show) this.show(graph);
    return graph;
  }

  show(graph, state) {
    this.pick.value = this.graphs.indexOf(graph);
    this.view.open(graph, state);
  }

  // Shows a node of a graph in its details; the step back is to what was shown before.
  enter(graph, node) {
    this.leave();
    if (this.view.base !== graph) this.show(graph);
    this.view.select(node, true);
    this.view.stage.scrollIntoView();
  }

  // A step of the history: the one back is to what is shown before it, a feature where one comes from its article.
  leave() {
    const article = document.getElementById("feature");
    if (article?.contains(document.activeElement)) history.replaceState(null, "", article.dataset.address);
    history.pushState(null, "", location.href);
  }

  // The circuit by weights of a feature LAYER-POINT-NUMBER, if the page has it.
  circuit(name) {
    return this.graphs.find(({ texts, target }) => !texts && target.kind === "feature" && name === `${target.site}-${target.number}`);
  }

  // The graph that a link of the page names: one of those that it came with by its place, or a feature's circuit.
  linked(hash) {
    const [, place] = /^#graph-(\d+)$/.exec(hash) ?? [];
    return place ? this.graphs[Number(place)] : this.circuit(graphAddress.circuit(hash) ?? "");
  }

  // The strongest node of each graph that is this feature.
  nodesOf(feature) {
    const hash = featureData.hash(feature);
    const isIt = (other) => other && featureData.hash(other) === hash;
    const found = this.graphs.map((graph) => [graph, graph.byStrength.find((node) => isIt(graph.feature(node)))]);
    return found.filter(([, node]) => node);
  }

  // Shows the view that the address stands for, if it is one; true if it does.
  route() {
    // It may be of a graph that a server is still to be asked for.
    if (!this.graphs.length) return false;
    try {
      const linked = this.linked(location.hash);
      const state = linked ? graphAddress.remembered(linked) : graphAddress.parse(location.hash, this.graphs);
      if (!state) return false;
      if (this.view.state && location.hash === graphAddress.hash(this.view.state)) return true;
      this.show(state.base, state);
      if (linked) this.view.save(); // the link leads here again
      this.section.scrollIntoView();
      return true;
    } catch (error) {
      this.view.tell(error.message, true);
      return false;
    }
  }
}

function startGraphs() {
  const list = new GraphList(document.getElementById("circuits"));
  for (const packed of JSON.parse(document.getElementById("graph-data").textContent)) list.add(packed, false);
  if (!list.route() && list.graphs.length) list.show(list.graphs[0]);
  return list;
}

const graphs = startGraphs();

// From a feature to the graphs that it is in.
function graphLinks(feature) {
  const links = graphs
    .nodesOf(feature)
    .map(([graph, node]) => element("li", {}, button({ class: "node-link" }, () => graphs.enter(graph, node), graph.title())));
  return links.length ? part("Graphs that it is in", element("ul", { class: "in-graphs" }, ...links)) : null;
}

featureExtras.push(graphLinks);
