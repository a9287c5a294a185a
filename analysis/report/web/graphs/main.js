// The graphs of the page: which one is shown, and how more are added.

class GraphList {
  constructor(section) {
    this.section = section;
    this.pick = section.querySelector("#graph-pick");
    this.view = new GraphView(section);
    this.graphs = [];
    this.pick.addEventListener("change", () => this.show(this.graphs[Number(this.pick.value)]));
    addEventListener("hashchange", () => this.route());
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

  // Shows the view that the address stands for, if it is one; true if it does.
  route() {
    try {
      const state = graphAddress.parse(location.hash, this.graphs);
      if (!state) return false;
      if (this.view.state && location.hash === graphAddress.hash(this.view.state)) return true;
      this.show(state.base, state);
      this.section.scrollIntoView();
      return true;
    } catch (error) {
      this.view.tell(error.message, true);
      return false;
    }
  }
}

function startGraphs() {
  const source = document.getElementById("graph-data");
  if (!source) return null;
  const list = new GraphList(document.getElementById("circuits"));
  for (const packed of JSON.parse(source.textContent)) list.add(packed, false);
  if (!list.route() && list.graphs.length) list.show(list.graphs[0]);
  return list;
}

const graphs = startGraphs();
