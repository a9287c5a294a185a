// The prompt: its tokens as buttons, coloured by what of the chosen node is found at each.

class PromptView {
  constructor(list, answer, note, pick) {
    Object.assign(this, { list, answer, note, pick });
  }

  open(graph) {
    this.graph = graph;
    this.list.hidden = this.note.hidden = !graph.texts;
    this.buttons = (graph.texts ?? []).map((_, position) => {
      const pick = ({ currentTarget }) => this.pick(currentTarget.getAttribute("aria-pressed") === "true" ? null : position);
      return button({ "aria-pressed": "false", "data-position": position }, pick, graph.token(position));
    });
    this.list.replaceChildren(...this.buttons.map((button) => element("li", {}, button)));
    this.answer.replaceChildren(...answerWords(graph));
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

// The target in a sentence behind the prompt: "→ ␣hug, 46%".
function answerWords(graph) {
  if (!graph.data.answer) return [element("b", {}, graph.fullName(graph.target)), ", from weights alone"];
  const [own, against, probability] = graph.data.answer;
  const { target } = graph;
  const after = target.position !== null && target.position < graph.texts?.length - 1 ? ` behind ${graph.token(target.position)} (${target.position})` : "";
  const what = [element("b", {}, target.kind === "logit" ? own : graph.fullName(target)), probability === null ? ` = ${number(target.value)}` : `, ${percent(probability)}`];
  return ["→ ", ...what, after, against ? element("small", {}, ` rather than ${against}`) : ""];
}
