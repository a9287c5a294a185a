// Pieces of the page made from data. Text enters as text nodes only, so that no token is read as HTML.

// An element with attributes, variables of its style (`--name`), and children; null stands for none.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// A button that does something.
function button(properties, act, ...content) {
  const made = element("button", { type: "button", ...properties }, ...content);
  made.addEventListener("click", act);
  return made;
}

// Gives the reader a JSON file.
function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// A text of tokens on one line, with its blanks to be seen.
function visible(text) {
  return text.replaceAll(" ", "␣") || "⟨empty⟩";
}

const MINUS = "−";

function number(value, digits = 3) {
  if (value === null) return "–";
  return String(Number(value.toPrecision(digits))).replace("-", MINUS);
}

// Three digits with a sign, zeros at the end kept, so that numbers in a column stand below each other.
function signed(value) {
  const digits = Math.abs(value).toPrecision(3);
  return `${value > 0 ? "+" : value < 0 ? MINUS : ""}${value ? digits : 0}`;
}

function percent(part) {
  return part > 0 && part < 0.001 ? "< 0.1%" : `${number(100 * part, part < 0.01 ? 1 : 2)}%`;
}

// Named numbers in a row.
function facts(pairs) {
  return element(
    "dl",
    { class: "numbers" },
    ...pairs.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}

// Tokens in a row, each with its score in the title; `pairs` holds token and score in turn.
function chips(pairs) {
  return element(
    "span",
    { class: "chips" },
    ...featureData
      .records(pairs, 2)
      .map(([token, score]) =>
        element("span", { class: "token", title: signed(score) }, featureData.label(token)),
      ),
  );
}

// A part of an article.
function part(title, ...content) {
  return element("section", {}, element("h4", {}, title), ...content);
}

function table(caption, columns, rows, kind = "") {
  const head = columns.map((name) => (name ? element("th", { scope: "col" }, name) : element("td")));
  return element(
    "div",
    kind === "dense" ? { class: "scroll", role: "group", "aria-label": caption, tabindex: "0" } : {},
    element(
      "table",
      { class: kind },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells))),
    ),
  );
}

function cell(...content) {
  return element("td", {}, ...content);
}

// A number with a bar as long as its part of the largest.
function bar(value, largest) {
  const length = `${(100 * Math.abs(value)) / (largest || 1)}%`;
  return element(
    "td",
    { class: `bar ${value < 0 ? "n" : "p"}` },
    element("i", { "--length": length, "aria-hidden": "true" }),
    element("span", {}, signed(value)),
  );
}

function featureLink(feature) {
  const tokens = featureData.tokens(feature);
  return element(
    "a",
    { href: featureData.hash(feature), class: "feature", title: featureData.title(feature) },
    element("b", {}, `#${featureData.number(feature)}`),
    tokens && ` ${tokens}`,
  );
}

// A token of a passage, coloured by its code. Colour begins after a blank, where the eye takes the word to.
function colouredToken(token, value, largest, isPeak, isFirst) {
  const [, blank, text] = /^( *)([^]*)$/.exec(featureData.text(token));
  const lead = isFirst ? "" : blank;
  const shown = (text || (lead ? "" : "␣")).replace("⏎", isFirst ? "⏎ " : "⏎\n");
  if (!value) return [lead, featureData.special(token) ? element("span", { class: "special" }, shown) : shown];
  const color = {
    class: value < 0 ? "n" : "p",
    "--a": (Math.abs(value) / largest).toFixed(2),
    title: `${featureData.label(token)}: ${number(value)}`,
  };
  return [lead, element(isPeak ? "strong" : "span", color, shown || "␣")];
}

// A passage with its tokens coloured, beside the highest code in it.
function passage({ tokens, values, peak, value }, largest) {
  const spans = tokens.flatMap((token, i) => colouredToken(token, values[i], largest, i === peak, i === 0));
  return element(
    "li",
    {},
    element("span", { class: "code" }, value.toPrecision(3)),
    element("p", { class: "text" }, ...spans),
  );
}

// What a page with a server adds to the details of a node and to a feature's article: functions that make an element.
const nodeExtras = [];
const featureExtras = [];
