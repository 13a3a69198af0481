// The table of means: a click on a heading sorts by it, best first.

// better: 1 higher, -1 lower, "one" nearer to 1, null for neither.
const COLUMNS = [
  { name: "Model", text: (row) => row.model, value: (row) => row.model },
  { name: "Ratio", key: "ratio", digits: 0, unit: "×", better: null },
  ...(SIZES.length > 1 ? [{ name: "Size", text: (row) => row.size, value: (row) => areaOf(row.size) }] : []),
  { name: "Steps", key: "steps", digits: 0, better: null },
  { name: "PSNR", key: "psnr", digits: 2, unit: "dB", better: 1 },
  { name: "PSNR, pooled", key: "psnr_pooled", digits: 2, unit: "dB", better: 1 },
  { name: "SSIM", key: "ssim", digits: 4, better: 1 },
  { name: "LPIPS", key: "lpips", digits: 4, better: -1 },
  { name: "FVD", key: "fvd", digits: 1, better: -1 },
  { name: "Features", key: "feature_distance", digits: 4, better: -1 },
  { name: "FD frames", key: "frechet_frames", digits: 1, better: -1 },
  { name: "FD differences", key: "frechet_differences", digits: 1, better: -1 },
  { name: "Sharpness", key: "sharpness", digits: 3, better: "one" },
  { name: "Seams", key: "seam_ratio", digits: 2, better: "one" },
  { name: "Borders", key: "border_ratio", digits: 3, better: "one" },
  { name: "Temporal MAE", key: "temporal_mae", digits: 3, unit: "levels", better: -1 },
  { name: "Ghosting rate", key: "ghosting_rate", digits: 3, better: -1 },
  { name: "Compression", key: "compression_factor", digits: 1, better: null },
  { name: "Nominal r", key: "nominal_compression_factor", digits: 1, better: null },
  { name: "Frames per latent", key: "frames_per_latent", digits: 2, better: null },
  { name: "Encode", key: "encode", digits: 1, unit: "frames/s", better: 1, value: (row) => speed(row, "encode_seconds") },
  { name: "Decode", key: "decode", digits: 1, unit: "frames/s", better: 1, value: (row) => speed(row, "decode_seconds") },
  { name: "Decode memory", key: "decode_megabytes", digits: 1, unit: "MB", better: -1 },
];
const ARROWS = { 1: "↑", [-1]: "↓", one: "→ 1" };
const MEANING = { 1: "higher is better", [-1]: "lower is better", one: "nearer to 1 is better" };

const areaOf = (size) => (size === "native" ? Infinity : size.split("x").reduce((area, side) => area * side, 1));
const sameRun = (a, b) => a.model === b.model && a.size === b.size && a.steps === b.steps;

/** Frames per second over all clips; null without times. */
function speed(row, key) {
  const rows = DATA.rows.filter((other) => sameRun(other, row));
  const seconds = rows.reduce((sum, other) => sum + (other[key] ?? 0), 0);
  return seconds > 0 ? rows.reduce((sum, other) => sum + other.frames, 0) / seconds : null;
}

const valueIn = (column, row) => (column.value ? column.value(row) : row[column.key] ?? null);
const isNumber = (column) => column.key !== undefined;

/** The higher, the better. */
const merit = (column, value) => (column.better === "one" ? -Math.abs(value - 1) : column.better * value);

/** Whether a row has the best value of its size; a lone value is not marked. */
function isBest(column, row) {
  if (!column.better || valueIn(column, row) === null) return false;
  const merits = DATA.summary.filter((other) => other.size === row.size)
    .map((other) => valueIn(column, other)).filter((value) => value !== null)
    .map((value) => merit(column, value));
  return merits.length > 1 && merit(column, valueIn(column, row)) === Math.max(...merits);
}

/** Reasons for absent metrics, in order of appearance, with the names of the metrics. */
const reasons = new Map();

function reasonFor(row, key) {
  if (row.absent?.[key]) return row.absent[key];
  if (key === "seam_ratio") return "clips of one chunk have no seams";
  if (key === "encode" || key === "decode") return "times were not recorded";
  return "no reason was recorded";
}

function cell(column, row) {
  if (!isNumber(column)) {
    const text = column.text(row);
    return column.name === "Model"
      ? el("th", { scope: "row" }, dot(row.model), text)
      : el("td", { className: "number", textContent: text });
  }
  const value = valueIn(column, row);
  if (value === null) {
    const reason = reasonFor(row, column.key);
    reasons.set(reason, (reasons.get(reason) ?? new Set()).add(column.name));
    const note = el("sup", { textContent: [...reasons.keys()].indexOf(reason) + 1 });
    return el("td", { className: "number absent", title: `${column.name}: ${reason}` }, "absent", note);
  }
  const text = value.toFixed(column.digits) + (column.unit === "×" ? "×" : "");
  return el("td", { className: "number" }, isBest(column, row) ? el("b", { textContent: text }) : text);
}

function heading(column, onSort) {
  const unit = [column.unit === "×" ? "" : column.unit ?? "", ARROWS[column.better] ?? ""].join(" ").trim();
  const button = el("button", { type: "button", title: MEANING[column.better] ?? "" },
    column.name, el("small", { textContent: unit || "\u00a0" }));
  button.addEventListener("click", onSort);
  const node = el("th", { scope: "col" }, button);
  if (column.name !== "Model") node.classList.add("number");
  return node;
}

/** -1, 0 or 1; absent values last in both directions. */
function compare(column, up, a, b) {
  const [x, y] = [valueIn(column, a), valueIn(column, b)];
  if (x === null || y === null) return (x === null) - (y === null);
  return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
}

function showTable() {
  const body = el("tbody");
  const lines = new Map(DATA.summary.map((row) => [row, el("tr", {}, ...COLUMNS.map((column) => cell(column, row)))]));
  const sorted = { column: null, up: false };
  const heads = COLUMNS.map((column, index) => heading(column, () => {
    sorted.up = sorted.column === column ? !sorted.up : column.better !== 1;
    sorted.column = column;
    const rows = [...DATA.summary].sort((a, b) => compare(column, sorted.up, a, b));
    body.replaceChildren(...rows.map((row) => lines.get(row)));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
  }));
  byId("summary").append(el("thead", {}, el("tr", {}, ...heads)), body);
  heads[COLUMNS.findIndex((column) => column.key === "psnr")].querySelector("button").click();
  const notes = ["Bold: best at its size.", ...new Set(DATA.summary.map(clipsNote).filter(Boolean))];
  byId("notes").append(el("p", { textContent: notes.join(" ") }));
  const why = [...reasons].map(([reason, names]) => el("li", { textContent: `${listed([...names])}: ${reason}` }));
  byId("notes").append(el("ol", {}, ...why));
}

/** A warning when means do not cover all clips. */
function clipsNote(row) {
  return row.clips === DATA.clips.length ? ""
    : `${row.model} at ${row.size}, ${counted(row.steps, "step")}: ${row.clips} of ${counted(DATA.clips.length, "clip")} only.`;
}
