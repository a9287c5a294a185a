// Nodes that are selected, to be grouped under a name; and the groups that a rule finds.

const GROUP_RULES = {
  positions: "what stands at several tokens",
  readers: "what has the same readers",
};

class GroupBar {
  constructor(section, view) {
    const find = (id) => section.querySelector(`#graph-${id}`);
    Object.assign(this, { view, bar: find("selection"), text: find("selection-text"), name: find("group-name"), rule: find("rule"), rules: find("rules"), ungroup: find("ungroup") });
    this.marked = new Set();
    this.bar.addEventListener("submit", (event) => {
      event.preventDefault();
      this.group();
    });
    find("unselect").addEventListener("click", () => this.clear());
    find("group-by").addEventListener("click", () => view.groupBy(this.rule.value));
    this.ungroup.addEventListener("click", () => view.ungroup());
    this.show();
  }

  open(graph) {
    this.marked.clear();
    const known = Object.keys(GROUP_RULES).filter((rule) => graph.data.groups?.[rule]?.length);
    this.rules.hidden = !known.length;
    this.rule.replaceChildren(...known.map((rule) => element("option", { value: rule }, `${GROUP_RULES[rule]} (${graph.data.groups[rule].length})`)));
    this.show();
  }

  toggle(id) {
    if (!this.marked.delete(id)) this.marked.add(id);
    this.show();
  }

  clear() {
    this.marked.clear();
    this.show();
    this.view.mark();
    this.view.showChosen();
  }

  group() {
    const ids = [...this.marked];
    if (!ids.length) return;
    this.marked.clear();
    this.view.group(this.name.value, ids);
    this.name.value = "";
    this.show();
  }

  show() {
    this.bar.hidden = !this.marked.size;
    this.ungroup.hidden = !this.view.state?.groups.length;
    this.text.textContent = `${this.marked.size} selected`;
  }
}
