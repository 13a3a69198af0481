// Plots: PSNR and Fréchet distances against compression (REGEN, Fig. 12) and denoising steps (Fig. 7). Lines are labelled at their ends.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 320;
const MARGIN = { top: 14, right: 14, bottom: 42, left: 40 };
const LETTER = 6.4; // average pixels per letter of a label
const LABEL_HEIGHT = 14;
const STAR = 4; // index of the marker; lower ones are for families

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** How the length of a model's latents was chosen; null for a model measured at one length only. */
function lengthKind(model) {
  if (LENGTH.test(model)) return model.endsWith("dB") ? "target PSNR" : "fixed length";
  return MODELS.some((other) => other !== model && withoutLength(other) === model) ? "adaptive" : null;
}

const isAdaptive = (model) => lengthKind(model) === "adaptive";

/** Models of one line in the compression plot, up to size: a family, or one kind of lengths of a model. */
function lineOf(model) {
  const kind = lengthKind(model);
  return kind === null ? familyOf(model) : `${withoutLength(model)}, ${kind}`;
}

/** Rows in groups that share `keyOf`, as series of points sorted by x. */
function seriesOf(rows, keyOf, nameOf, x, y = "psnr") {
  const groups = new Map();
  for (const row of rows) groups.set(keyOf(row), [...(groups.get(keyOf(row)) ?? []), row]);
  return [...groups.values()].map((group) => ({
    name: nameOf(group[0]) + (SIZES.length > 1 ? ` ${group[0].size}` : ""),
    colour: colourOf(group[0].model),
    shape: isAdaptive(group[0].model) ? STAR : FAMILIES.indexOf(familyOf(group[0].model)) % STAR,
    dash: ["", "6 4", "2 3"][SIZES.indexOf(group[0].size) % 3],
    points: group.map((row) => ({ x: row[x], y: row[y], row })).sort((a, b) => a.x - b.x),
  }));
}

/** The number of steps with the highest merit, for each model and size. */
function bestSteps(rows, merit) {
  return rows.filter((row) => rows.every((other) =>
    other.model !== row.model || other.size !== row.size || other === row || merit(other) < merit(row) ||
    (merit(other) === merit(row) && other.steps > row.steps)));
}

/** At most `count` round numbers between the limits of a logarithmic axis. */
function logTicks(low, high, count) {
  for (const factors of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
      ticks.push(...factors.map((factor) => factor * power).filter((tick) => tick >= low && tick <= high));
    }
    if (ticks.length <= count) return ticks;
  }
  return [low, high];
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

/** The outline of a star with five points. */
function star(x, y, r) {
  const corners = Array.from({ length: 10 }, (_, index) => {
    const [turn, reach] = [Math.PI * (index / 5 - 0.5), index % 2 ? r * 0.45 : r];
    return `${x + reach * Math.cos(turn)},${y + reach * Math.sin(turn)}`;
  });
  return `M${corners.join("L")}z`;
}

function marker(shape, x, y, colour, text) {
  const r = 4.5;
  const outlines = [
    `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - r * 1.25}l${r * 1.2},${r * 2.1}h${-r * 2.4}z`,
    `M${x},${y - r * 1.35}l${r * 1.35},${r * 1.35}l${-r * 1.35},${r * 1.35}l${-r * 1.35},${-r * 1.35}z`,
    star(x, y, r * 1.9),
  ];
  const title = svg("title", {}, text);
  return svg("path", { d: outlines[shape], class: "marker", style: `fill:${colour}` }, title);
}

/** Positions of the labels, without overlap: right of the last point if it fits, else above or below it. */
function placeLabels(series, toX, toY, width) {
  const labels = series.map(({ name, colour, points }) => {
    const last = points[points.length - 1];
    const text = name.length > 34 ? `${name.slice(0, 32)}…` : name;
    const room = text.length * LETTER;
    const fitsRight = toX(last.x) + 9 + room <= width;
    const falls = points.length > 1 && last.y < points[points.length - 2].y;
    return {
      text, colour, room, left: fitsRight ? toX(last.x) + 9 : Math.max(MARGIN.left + 4, toX(last.x) + 6 - room),
      top: toY(last.y) + (fitsRight ? 4 : falls ? 17 : -9), // on the side away from its line
    };
  }).sort((a, b) => a.top - b.top);
  labels.forEach((label, index) => {
    for (const other of labels.slice(0, index)) {
      const disjoint = label.left > other.left + other.room || other.left > label.left + label.room;
      if (!disjoint && label.top < other.top + LABEL_HEIGHT) label.top = other.top + LABEL_HEIGHT;
    }
  });
  const below = Math.max(0, ...labels.map((label) => label.top - (HEIGHT - MARGIN.bottom - 4)));
  return labels.map((label) => ({ ...label, top: Math.max(MARGIN.top + 8, label.top - below) }));
}

/** The axes: x logarithmic, y linear around the points. */
function scales(series, width) {
  const points = series.flatMap((one) => one.points);
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const [left, right] = [Math.min(...xs) / 1.25, Math.max(...xs) * 1.25];
  const pad = Math.max(0.5, (Math.max(...ys) - Math.min(...ys)) * 0.15);
  const [low, high] = [Math.min(...ys) - pad, Math.max(...ys) + pad];
  const longest = Math.max(...series.map((one) => Math.min(one.name.length, 34))) * LETTER;
  const end = width - (width > 520 ? Math.min(longest, width * 0.3) : MARGIN.right);
  const part = (x) => Math.log(x / left) / Math.log(right / left);
  return {
    left, right, low, high, end,
    toX: (x) => MARGIN.left + part(x) * (end - MARGIN.left),
    toY: (y) => HEIGHT - MARGIN.bottom - ((y - low) / (high - low)) * (HEIGHT - MARGIN.bottom - MARGIN.top),
  };
}

function draw(series, { title, xLabel, xTicks, unit = "dB" }, width) {
  const { left, right, low, high, end, toX, toY } = scales(series, width);
  const base = HEIGHT - MARGIN.bottom;
  const picture = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": title });
  for (const tick of linearTicks(low, high, 6)) {
    picture.append(
      svg("line", { x1: MARGIN.left, x2: end, y1: toY(tick), y2: toY(tick), class: "grid" }),
      svg("text", { x: MARGIN.left - 7, y: toY(tick) + 4, "text-anchor": "end" }, String(+tick.toFixed(2))));
  }
  for (const tick of xTicks ?? logTicks(left, right, (end - MARGIN.left) / 42)) {
    picture.append(
      svg("line", { x1: toX(tick), x2: toX(tick), y1: base, y2: base + 4, class: "axis" }),
      svg("text", { x: toX(tick), y: base + 17, "text-anchor": "middle" }, String(+tick.toPrecision(3))));
  }
  picture.append(
    svg("line", { x1: MARGIN.left, x2: end, y1: base, y2: base, class: "axis" }),
    svg("text", { x: (MARGIN.left + end) / 2, y: HEIGHT - 6, "text-anchor": "middle", class: "name" }, xLabel));
  for (const { colour, dash, points } of series) {
    const line = points.map(({ x, y }) => `${toX(x)},${toY(y)}`).join(" ");
    picture.append(svg("polyline", { points: line, class: "line", style: `stroke:${colour}`, "stroke-dasharray": dash }));
  }
  for (const { colour, shape, points } of series) {
    picture.append(...points.map(({ x, y, row }) => marker(shape, toX(x), toY(y), colour,
      `${row.model}, ${sizeText(row.size)}, ${counted(row.steps, "step")}: ${y.toFixed(2)} ${unit} at ${+x.toPrecision(3)}`)));
  }
  for (const { text, colour, left: x, top: y } of placeLabels(series, toX, toY, width)) {
    picture.append(svg("text", { x, y, class: "label", style: `fill:${colour}` }, text));
  }
  return picture;
}

/** A plot that is redrawn when its width changes, so that letters keep their size. */
function plot(series, words) {
  const canvas = el("div", { className: "canvas" });
  new ResizeObserver(() => {
    const width = Math.floor(canvas.clientWidth);
    if (width > 0) canvas.replaceChildren(draw(series, words, width));
  }).observe(canvas);
  return el("figure", {}, el("figcaption", {}, el("b", { textContent: words.title }), " ", words.note), canvas);
}

const isKnown = (value) => value !== null && value !== undefined;

/** A metric against denoising steps, of models with several numbers of steps; null without one. */
function stepsPlot(key, words) {
  const rows = DATA.summary.filter((row) => row.steps > 0 && isKnown(row[key]));
  const series = seriesOf(rows, (row) => JSON.stringify([row.model, row.size]), (row) => row.model, "steps", key)
    .filter((one) => one.points.length > 1);
  const counts = [...new Set(series.flatMap((one) => one.points.map((point) => point.x)))].sort((a, b) => a - b);
  return series.length ? plot(series, { ...words, note: "of denoising", xLabel: "steps", xTicks: counts }) : null;
}

/** A metric of all models against the nominal compression factor, each at its best number of steps; null without one. */
function compressionPlot(key, merit, words) {
  const rated = bestSteps(DATA.summary.filter((row) => row.nominal_compression_factor > 0 && isKnown(row[key])), merit);
  const alone = (row) => rated.every((other) => other.model === row.model || lineOf(other.model) !== lineOf(row.model));
  const byFamily = seriesOf(rated, (row) => JSON.stringify([lineOf(row.model), row.size]),
    (row) => (alone(row) && !isAdaptive(row.model) ? row.model : lineOf(row.model)), "nominal_compression_factor", key);
  return byFamily.length ? plot(byFamily, {
    ...words, note: "each model at its best step count; further right: smaller latents",
    xLabel: "nominal compression factor r",
  }) : null;
}

function showPlots() {
  const place = document.querySelector("#plots .plots");
  place.append(...[
    compressionPlot("psnr", (row) => row.psnr, { title: "PSNR (dB) against compression" }),
    compressionPlot("fvd", (row) => -row.fvd, { title: "FVD against compression", unit: "FVD" }),
    compressionPlot("frechet_frames", (row) => -row.frechet_frames, { title: "FD frames against compression", unit: "FD" }),
    stepsPlot("psnr", { title: "PSNR (dB) against steps" }),
    stepsPlot("fvd", { title: "FVD against steps", unit: "FVD" }),
    stepsPlot("frechet_frames", { title: "FD frames against steps", unit: "FD" }),
    stepsPlot("frechet_differences", { title: "FD differences against steps", unit: "FD" }),
  ].filter((figure) => figure !== null));
  byId("plots").hidden = !place.hasChildNodes();
}
