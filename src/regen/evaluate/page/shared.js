// Shared by all scripts of a page: results, formatting, colours, elements.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MODELS = [...new Set(DATA.summary.map((row) => row.model))];
const SIZES = [...new Set(DATA.summary.map((row) => row.size))];

// The length of a model's latents in its name: small@25%, small@320, small@30dB.
const LENGTH = /@\d+(\.\d+)?(%|dB)?$/;
const withoutLength = (model) => model.replace(LENGTH, "");

// Models that differ only in ratio (regen-small-4x, regen-small-8x) or length are one family: one colour, one line.
const familyOf = (model) => withoutLength(model).replace(/-\d+x$/, "");
const FAMILIES = [...new Set(MODELS.map(familyOf))];
const colourOf = (model) => `var(--series-${FAMILIES.indexOf(familyOf(model)) % 6})`;

const byId = (id) => document.getElementById(id);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const sizeText = (size) => (size === "native" ? "native size" : size.replace("x", " × "));
const listed = (words) => words.join(", ").replace(/, ([^,]*)$/, " and $1");

/** An element with properties and children; strings become text nodes, so names can't inject markup. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A choice among [value, text] pairs. */
function select(label, pairs, chosen, onChange) {
  const options = pairs.map(([value, text]) => el("option", { value, textContent: text, selected: value === chosen }));
  const node = el("select", {}, ...options);
  node.addEventListener("change", () => onChange(node.value));
  return el("label", {}, el("span", { textContent: label }), node);
}

function dot(model) {
  const node = el("i", { className: "dot", "aria-hidden": "true" });
  node.style.background = colourOf(model);
  return node;
}
