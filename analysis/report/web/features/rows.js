// A list of thousands of options, of which only those in view are elements: each is placed by its number.

const ROW = 24; // pixels; style.css says so too
const SPARE = 12; // rows made above and below the view

class Rows {
  // `content(at)` gives what stands in row `at`.
  constructor(list, content) {
    this.list = list;
    this.content = content;
    this.made = new Map();
    this.n = 0;
    this.chosen = -1;
    list.addEventListener("scroll", () => this.show(), { passive: true });
    new ResizeObserver(() => this.show()).observe(list);
  }

  // Other rows.
  fill(n) {
    this.n = n;
    this.chosen = -1;
    this.made.clear();
    this.list.replaceChildren();
    this.list.style.setProperty("--height", `${n * ROW}px`);
    this.show();
  }

  // Marks one row, −1 for none, and brings it into view.
  choose(at) {
    this.made.get(this.chosen)?.setAttribute("aria-selected", "false");
    this.chosen = at;
    if (at >= 0) {
      const { scrollTop, clientHeight } = this.list;
      if (at * ROW < scrollTop) this.list.scrollTop = at * ROW;
      else if ((at + 1) * ROW > scrollTop + clientHeight) this.list.scrollTop = (at + 1) * ROW - clientHeight;
    }
    this.show();
    if (at < 0) return this.list.removeAttribute("aria-activedescendant");
    this.made.get(at).setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", this.made.get(at).id);
  }

  get page() {
    return Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
  }

  // Makes the rows in view and the chosen one, in their order, and drops others.
  show() {
    const { scrollTop, clientHeight } = this.list;
    const start = Math.max(0, Math.floor(scrollTop / ROW) - SPARE);
    const end = Math.min(this.n, Math.ceil((scrollTop + clientHeight) / ROW) + SPARE);
    const wanted = new Set(Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i));
    if (this.chosen >= 0 && this.chosen < this.n) wanted.add(this.chosen);
    for (const [at, row] of this.made) {
      if (wanted.has(at)) continue;
      row.remove();
      this.made.delete(at);
    }
    let next = null;
    for (const at of [...wanted].sort((a, b) => b - a)) {
      if (!this.made.has(at)) {
        this.made.set(at, this.row(at));
        this.list.insertBefore(this.made.get(at), next);
      }
      next = this.made.get(at);
    }
  }

  row(at) {
    const properties = {
      role: "option",
      id: `option-${at}`,
      "data-at": at,
      "aria-posinset": at + 1,
      "aria-setsize": this.n,
      "aria-selected": `${at === this.chosen}`,
      "--top": `${at * ROW}px`,
    };
    return element("li", properties, ...this.content(at));
  }
}
