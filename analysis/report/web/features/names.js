// A reader's own names for features. They stand in the lists of featureData, so that everything on the page shows
// them; the browser keeps them by the dictionary's fingerprint, and they go into files that commands read.

const NAMES_FORMAT = "bilinear-lm feature names";
const NAMES_VERSION = 1;
const LONGEST_NAME = 200;

const ownNames = {
  sides: [],

  // The reader's names of all sides, by number: those given to the command, and those that the browser kept.
  start() {
    for (const layer of featureData.layers.values()) {
      for (const lists of [layer.in, layer.out]) {
        const side = { lists, made: null, own: new Map(), further: new Map() };
        const put = (number, name) => side[featureData.place(lists, number) < 0 ? "further" : "own"].set(number, name);
        for (const [number, [, name]] of Object.entries(lists.given)) put(Number(number), name);
        for (const [number, name] of this.kept(lists)) {
          if (name) put(number, name);
          else side.own.delete(number);
        }
        this.sides.push(side);
      }
    }
  },

  // The list of a side was read: its made names are known, and the reader's stand over them.
  listed(lists) {
    const side = this.sides.find((one) => one.lists === lists);
    side.made = lists.name.map((name, place) => lists.given[numberAt(lists, place)]?.[0] ?? name);
    lists.name = [...lists.name];
    this.fill(side);
  },

  key(lists) {
    return `names ${lists.site} ${lists.fingerprint}`;
  },

  // What the browser kept: number and name, an empty one where a name of the data was taken back.
  kept(lists) {
    try {
      const entries = Object.entries(JSON.parse(localStorage.getItem(this.key(lists))) ?? {});
      return entries.filter(([, name]) => typeof name === "string").map(([number, name]) => [Number(number), name]);
    } catch {
      return [];
    }
  },

  // Whether the browser has kept the names.
  keep({ lists, own, further }) {
    const names = Object.fromEntries([...further, ...own]);
    for (const number of Object.keys(lists.given)) names[number] ??= "";
    try {
      if (Object.keys(names).length) localStorage.setItem(this.key(lists), JSON.stringify(names));
      else localStorage.removeItem(this.key(lists));
      return true;
    } catch {
      return false;
    }
  },

  // Shown names: the reader's, else those that were made, with the number where a reader's is the same.
  fill({ lists, made, own, further }) {
    if (!made) return;
    const taken = new Set([...own.values(), ...further.values()]);
    made.forEach((name, place) => {
      const number = numberAt(lists, place);
      lists.name[place] = own.get(number) ?? (taken.has(name) ? `${name} (${number})` : name);
    });
    lists.sought = null; // what the search looks through
  },

  own(feature) {
    return this.side(feature).own.get(featureData.number(feature));
  },

  side(feature) {
    const lists = featureData.lists(feature);
    return this.sides.find((side) => side.lists === lists);
  },

  isOwn(feature) {
    return this.own(feature) !== undefined;
  },

  made(feature) {
    return this.side(feature).made[feature.place];
  },

  // What is wrong with a name; nothing if it can be given.
  fault({ own, further }, number, name) {
    if (name.length > LONGEST_NAME) return `A name has at most ${LONGEST_NAME} characters.`;
    if (/\p{C}/u.test(name)) return "A name has no characters that cannot be seen.";
    const other = [...own, ...further].find(([at, text]) => text === name && at !== number);
    return other ? `#${other[0]} has this name; give another.` : "";
  },

  // Gives a name, or takes it back where it is empty; what went wrong, or nothing.
  rename(feature, text) {
    const side = this.side(feature);
    const number = featureData.number(feature);
    const name = text.trim();
    const fault = name && this.fault(side, number, name);
    if (fault) return fault;
    if (name && name !== this.made(feature)) side.own.set(number, name);
    else side.own.delete(number);
    const kept = this.keep(side);
    this.fill(side);
    document.dispatchEvent(new Event("renamed"));
    return kept ? "" : "Named for now: this browser keeps nothing for files. Save the names.";
  },

  get count() {
    return this.sides.reduce((sum, { own, further }) => sum + own.size + further.size, 0);
  },

  // The file that commands read by --names.
  file() {
    const named = this.sides.filter(({ own, further }) => own.size + further.size);
    const dictionaries = named.map(({ lists, own, further }) => [
      lists.site,
      { n_feat: lists.nFeat, fingerprint: lists.fingerprint, names: Object.fromEntries([...further, ...own]) },
    ]);
    const content = { format: NAMES_FORMAT, version: NAMES_VERSION, dictionaries: Object.fromEntries(dictionaries) };
    return `${JSON.stringify(content, null, 2)}\n`;
  },

  // Takes the names of such a file, all or none; says what it did.
  open(text) {
    let content;
    try {
      content = JSON.parse(text);
    } catch {
      throw new Error("This is no JSON file.");
    }
    if (content?.format !== NAMES_FORMAT || content.version !== NAMES_VERSION || typeof (content.dictionaries ?? 0) !== "object") {
      throw new Error("This is no file of feature names.");
    }
    const changes = [];
    for (const side of this.sides) {
      const part = content.dictionaries[side.lists.site];
      if (part) changes.push([side, this.checked(side, part)]);
    }
    if (!changes.length) throw new Error("The file names no features of this page.");
    for (const [side, [own, further]] of changes) {
      Object.assign(side, { own, further });
      this.keep(side);
      this.fill(side);
    }
    document.dispatchEvent(new Event("renamed"));
    return `${changes.reduce((sum, [, [own]]) => sum + own.size, 0)} features named.`;
  },

  // Names of a file for one dictionary: of features on the page, and of others, which are kept for saving.
  checked({ lists }, part) {
    const { site, nFeat, fingerprint } = lists;
    if (part.n_feat !== nFeat || part.fingerprint !== fingerprint) {
      throw new Error(`The names of ${site} are for another dictionary.`);
    }
    const found = { own: new Map(), further: new Map() };
    for (const [text, name] of Object.entries(part.names ?? {})) {
      const number = Number(text);
      if (!Number.isInteger(number) || number < 0 || number >= nFeat) throw new Error(`${site} has no feature ${text}.`);
      const bad = typeof name !== "string" || !name.trim() || name !== name.trim() ? "is no name" : this.fault(found, number, name);
      if (bad) throw new Error(`#${text} of ${site}: ${bad}`);
      found[featureData.place(lists, number) >= 0 ? "own" : "further"].set(number, name);
    }
    return [found.own, found.further];
  },
};

// The control in a feature's heading: a button that opens a form of one line.
function renamePart(feature) {
  const field = element("input", { id: "rename-text", type: "text", maxlength: LONGEST_NAME, autocomplete: "off", spellcheck: "false", "aria-describedby": "rename-says" });
  field.value = featureData.tokens(feature);
  const says = element("p", { id: "rename-says", class: "note", role: "status" });
  const form = element(
    "form",
    { hidden: "" },
    element("label", { for: "rename-text" }, "Name"),
    field,
    element("button", { type: "submit" }, "Rename"),
    ownNames.isOwn(feature) ? button({ class: "made" }, () => give(""), `Back to ${ownNames.made(feature)}`) : null,
    says,
  );
  const toggle = button({ id: "rename", "aria-expanded": "false" }, () => show(true), "Rename");
  const show = (open) => {
    form.hidden = !open;
    toggle.hidden = open;
    toggle.setAttribute("aria-expanded", `${open}`);
    (open ? field : toggle).focus({ preventScroll: true });
    if (open) field.select();
  };
  // The heading is made anew; the focus stays in it.
  const give = (text) => {
    const fault = ownNames.rename(feature, text);
    if (form.isConnected) says.textContent = fault;
    else document.getElementById("rename")?.focus({ preventScroll: true });
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    give(field.value);
  });
  form.addEventListener("keydown", (event) => event.key === "Escape" && show(false));
  return element("div", { class: "rename" }, toggle, form);
}

// Under the list: names into a file, and from one.
function startNameFiles() {
  const [save, open, status] = ["names-save", "names-open", "names-status"].map((id) => document.getElementById(id));
  const show = () => {
    save.disabled = !ownNames.count;
    save.textContent = ownNames.count ? `Save names (${ownNames.count})` : "Save names";
  };
  save.addEventListener("click", () => saveFile("feature-names.json", ownNames.file()));
  open.addEventListener("change", async () => {
    const [file] = open.files;
    open.value = "";
    if (!file) return;
    try {
      status.textContent = ownNames.open(await file.text());
    } catch (error) {
      status.textContent = error.message;
    }
  });
  document.addEventListener("renamed", show);
  show();
}
