// The prompt: its tokens as buttons, coloured by what of the chosen node is found at each.

class PromptView {
  constructor(list, note, pick) {
    Object.assign(this, { list, note, pick });
  }

  open(graph) {
    this.graph = graph;
    this.list.hidden = this.note.hidden = !graph.texts;
    this.buttons = (graph.texts ?? []).map((_, position) => {
      const made = element("button", { type: "button", "aria-pressed": "false", "data-position": position }, graph.token(position));
      made.addEventListener("click", () => this.pick(made.getAttribute("aria-pressed") === "true" ? null : position));
      return made;
    });
    this.list.replaceChildren(...this.buttons.map((button) => element("li", {}, button)));
  }

  // Colours the tokens for a node; `position` is the one whose nodes stand out.
  show(node, position) {
    if (!this.graph.texts) return;
    const origins = this.graph.origins(node);
    const largest = Math.max(...[...origins.values()].map(Math.abs), 0);
    this.buttons.forEach((button, at) => {
      const sum = origins.get(at) ?? 0;
      // By the root, so that small parts can be seen beside large ones.
      const strength = largest ? Math.sqrt(Math.abs(sum) / largest) : 0;
      button.className = strength < 0.05 ? "" : sum < 0 ? "n" : "p";
      button.style.setProperty("--a", strength.toFixed(2));
      button.title = `${this.graph.token(at)}: ${signed(100 * sum)}%`;
      button.setAttribute("aria-pressed", String(at === position));
    });
  }
}
