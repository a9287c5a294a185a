// Data of the page in pieces ("shards"), each read when it is asked for: from a script element with its name, or
// from a file of its own in the folder that the page names.

// A text that `packed_text` of document.py packed: zlib's stream of it, in base64.
async function unpacked(packed) {
  if (!window.DecompressionStream) throw new Error("This browser is too old to read the data of this page; expected one of 2023 or later.");
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

// Pieces that are kept once they were read; the least recently asked for is dropped.
const MOST_PIECES = 64;

const pageData = {
  folder: null,
  kept: new Map(),

  // A promise of the piece of this name.
  get(name) {
    const known = this.kept.get(name) ?? this.read(name);
    this.kept.delete(name);
    this.kept.set(name, known);
    if (this.kept.size > MOST_PIECES) this.kept.delete(this.kept.keys().next().value);
    known.catch(() => this.kept.delete(name)); // the next time it may be there
    return known;
  },

  async read(name) {
    if (this.folder !== null) return JSON.parse(await this.loaded(name));
    const element = document.querySelector(`script[data-shard="${CSS.escape(name)}"]`);
    if (!element) throw new Error(`The page has no data called ${name}.`);
    return JSON.parse(await unpacked(element.textContent));
  },

  // The JSON in a file, which is a script: pages that are opened as files may load nothing else.
  async loaded(name) {
    const source = `${this.folder}${name}.js`;
    await loadScript(source);
    const text = this.arrived.get(name);
    this.arrived.delete(name);
    if (text === undefined) throw new Error(`The file ${source} beside this page holds something else.`);
    return text;
  },

  arrived: new Map(),
};

// What the files call.
window.shard = (name, text) => pageData.arrived.set(name, text);

// Runs a script that lies beside the page.
async function loadScript(source) {
  const script = document.createElement("script");
  script.src = source;
  try {
    await new Promise((done, fail) => {
      script.onload = done;
      script.onerror = () => fail(new Error(`The file ${source}, which belongs beside this page, cannot be read.`));
      document.head.append(script);
    });
  } finally {
    script.remove();
  }
}
