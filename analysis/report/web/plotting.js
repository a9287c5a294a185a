// The library that draws figures: it is run, or loaded, when the first figure comes near the view.

const plotting = {
  library: null,
  waiting: new Map(),

  ready() {
    this.library ??= this.run().catch((error) => {
      this.library = null;
      throw error;
    });
    return this.library;
  },

  async run() {
    const kept = document.getElementById("plotly");
    if (kept.dataset.source) {
      await loadScript(kept.dataset.source);
    } else {
      const script = element("script", {}, await unpacked(kept.textContent));
      document.head.append(script);
      script.remove();
    }
  },

  // Calls `draw` when the canvas comes near the view and the library is there.
  whenNear(canvas, draw) {
    this.waiting.set(canvas, draw);
    this.observer.observe(canvas);
  },

  async draw(canvas) {
    const draw = this.waiting.get(canvas);
    this.observer.unobserve(canvas);
    this.waiting.delete(canvas);
    if (!draw || !canvas.isConnected) return;
    try {
      await this.ready();
    } catch (error) {
      canvas.replaceChildren(element("p", { class: "note" }, error.message));
      return;
    }
    if (canvas.isConnected) draw();
  },

  // Lets go of what was drawn in a part of the page that is to vanish.
  forget(part) {
    for (const canvas of part.querySelectorAll(".canvas")) {
      this.observer.unobserve(canvas);
      if (!this.waiting.delete(canvas)) window.Plotly?.purge(canvas);
    }
  },

  observer: new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => plotting.draw(target)),
    { rootMargin: "600px" },
  ),
};

addEventListener("beforeprint", () => [...plotting.waiting.keys()].forEach((canvas) => plotting.draw(canvas)));
