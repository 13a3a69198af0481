// Players: one card per clip, the worst first. All videos of a card follow the clock of the first one. Rows have
// metrics, or a note in their place (videos of other frames than the original's).

const LARGE_DRIFT = 0.25; // seconds; above it videos jump, below it they play a little faster or slower
const MAGNIFIED = 3;
const ORIGINAL = "original";

const choice = { size: SIZES[0], steps: "each", order: "worst", view: "side", first: "", second: "", hidden: new Set() };
const speedOf = { chosen: 1 };
let playing = null; // the one card that plays
let latest = null; // the card used last, which gets the keyboard
const cards = new Map(); // by element

/** Rows side by side: each model at the chosen size, with the nearest number of steps. */
function entriesOf(clip) {
  const here = DATA.rows.filter((row) => row.clip === clip && row.size === choice.size && !choice.hidden.has(row.model));
  if (choice.steps === "each") return here;
  const wanted = Number(choice.steps);
  return MODELS.flatMap((model) => {
    const rows = here.filter((row) => row.model === model).sort((a, b) => a.steps - b.steps);
    return rows.filter((row) => row.steps <= wanted).slice(-1).concat(rows.slice(0, 1)).slice(0, 1);
  });
}

const nameOf = (row) => (stepsOf(row.model).length > 1 ? `${row.model}, ${counted(row.steps, "step")}` : row.model);
const stepsOf = (model) => [...new Set(DATA.summary.filter((row) => row.model === model).map((row) => row.steps))];
const originalOf = (clip) => DATA.originals.find((one) => one.clip === clip && one.size === choice.size);
const entryNamed = (entries, name) => entries.find((row) => nameOf(row) === name);

function metricsOf(row) {
  const metrics = [`${row.psnr.toFixed(2)} dB`, `SSIM ${row.ssim.toFixed(3)}`];
  if (row.seam_ratio !== null) metrics.push(`seams ${row.seam_ratio.toFixed(2)}`);
  if (row.compression_factor) metrics.push(`${row.compression_factor.toFixed(1)}× compression`);
  return metrics;
}

/** Rank of a clip in the list, low numbers first. */
function rankOf(clip) {
  const entries = entriesOf(clip);
  if (choice.order === "name") return 0;
  if (choice.order === "worst") return mean(entries.map((row) => row.psnr));
  const [a, b] = [choice.first, choice.second].map((name) => entryNamed(entries, name));
  return a && b ? -Math.abs(a.psnr - b.psnr) : (a ?? b)?.psnr ?? Infinity; // compared with an original, PSNR is the gap
}

/** A video of this page as an object URL, in which every browser can seek. */
function videoUrl(number) {
  const bytes = Uint8Array.from(atob(byId(`video-${number}`).textContent), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
}

/** The videos of one clip and their buttons. Videos exist only while the card is near the screen. */
class Card {
  constructor(clip) {
    this.clip = clip;
    this.info = DATA.clips.find((one) => one.name === clip);
    this.videos = [];
    this.frame = 0;
    this.stage = el("div", { className: "stage" });
    this.bar = el("div", { className: "bar" });
    this.node = el("article", { className: "card", tabIndex: 0, "aria-label": clip });
    this.node.append(this.header(), this.stage, this.bar);
    this.node.addEventListener("pointerdown", () => { latest = this; });
    this.node.addEventListener("focusin", () => { latest = this; });
    this.fill();
    this.addButtons();
  }

  header() {
    const rows = entriesOf(this.clip);
    const hasMetrics = rows.some((row) => !row.note);
    const text = counted(this.frames, "frame") +
      (hasMetrics ? ` · mean PSNR ${mean(rows.map((row) => row.psnr)).toFixed(2)} dB` : "") +
      (choice.order === "gap" && rankOf(this.clip) <= 0 ? ` · gap ${(-rankOf(this.clip)).toFixed(2)} dB` : "");
    return el("header", {}, el("h3", { textContent: this.clip }), el("span", { textContent: text }));
  }

  get frames() { return entriesOf(this.clip)[0].frames; }
  get lead() { return this.videos[0]; }
  get rate() { return this.frames / this.lead.duration; } // frames per second
  get isPlaying() { return playing === this; }

  /** Boxes for the videos, side by side or one over the other. */
  fill() {
    const original = originalOf(this.clip);
    const rows = entriesOf(this.clip);
    this.leftOut = original.left_out;
    let shown = [{ row: null, video: original.video }, ...rows.map((row) => ({ row, video: row.video }))];
    if (choice.view === "wipe") {
      const pick = (name) => shown.find(({ row }) => (row ? nameOf(row) : ORIGINAL) === name);
      shown = [pick(choice.first) ?? shown[0], pick(choice.second) ?? shown[shown.length - 1]];
    }
    const best = Math.max(...rows.map((row) => row.psnr));
    this.frameBoxes = shown.map(({ video }) => this.frameBox(video));
    const captions = shown.map(({ row }) => this.caption(row, rows.length > 1 && row?.psnr === best));
    this.stage.style.setProperty("--count", shown.length);
    this.stage.classList.toggle("wipe", choice.view === "wipe");
    this.stage.classList.toggle("empty", this.leftOut || shown.every(({ video }) => video === undefined));
    if (choice.view === "wipe") {
      this.stage.append(el("figure", {}, el("div", { className: "over" }, ...this.frameBoxes),
        el("div", { className: "pair" }, ...captions)));
    } else {
      this.stage.append(...shown.map((_, index) => el("figure", {}, this.frameBoxes[index], captions[index])));
    }
    this.stage.querySelectorAll(".over, figure > .frame").forEach((box) => {
      box.addEventListener("click", (event) => this.magnify(event));
      box.addEventListener("pointermove", (event) => this.look(event));
    });
  }

  frameBox(video) {
    const box = el("div", { className: "frame" });
    const [height, width] = choice.size === "native" ? [this.info.height, this.info.width] : choice.size.split("x");
    box.style.aspectRatio = `${width} / ${height}`;
    if (video === undefined) box.append(el("span", { textContent: this.leftOut ? "left out" : "no video" }));
    else box.dataset.video = video;
    return box;
  }

  caption(row, isBest) {
    if (row === null) return el("figcaption", {}, el("strong", { textContent: ORIGINAL }));
    const parts = (row.note ? [row.note] : metricsOf(row)).map((text, index) => el(isBest && index === 0 ? "b" : "span", { textContent: text }));
    return el("figcaption", {}, el("strong", {}, dot(row.model), nameOf(row)),
      ...parts.flatMap((part, index) => (index ? [" · ", part] : [part])));
  }

  addButtons() {
    if (this.stage.classList.contains("empty")) {
      this.bar.textContent = this.leftOut
        ? `Its videos exceed the ${DATA.limit_mb} MB of this page.` : "No videos were recorded.";
      return;
    }
    const button = (text, label, action) => {
      const node = el("button", { type: "button", textContent: text, title: label, "aria-label": label });
      node.addEventListener("click", action);
      return node;
    };
    this.playButton = button("▶\ufe0e", "Play", () => this.toggle());
    this.playButton.classList.add("play");
    this.scrubber = el("input", { type: "range", min: 0, max: this.frames - 1, step: 1, value: 0, "aria-label": "Frame" });
    this.scrubber.addEventListener("input", () => { this.pause(); this.seek(Number(this.scrubber.value)); });
    this.counter = el("output", { textContent: this.place(0) });
    this.bar.append(this.playButton,
      button("−1", "One frame back", () => this.step(-1)), button("+1", "One frame on", () => this.step(1)),
      this.scrubber, this.counter);
    if (document.fullscreenEnabled) this.bar.append(button("full screen", "Full screen", () => this.fullScreen()));
  }

  place(frame) { return `${frame + 1} / ${this.frames}`; }

  /** Create the videos, when the card comes near the screen. */
  open() {
    if (this.videos.length) return;
    for (const box of this.frameBoxes.filter((one) => one.dataset.video !== undefined)) {
      const video = el("video", { muted: true, playsInline: true, preload: "auto", src: videoUrl(box.dataset.video) });
      video.addEventListener("loadedmetadata", () => this.put(video, this.frame));
      video.addEventListener("seeked", () => { if (video.paused) this.put(video, this.frame); });
      video.addEventListener("error", () => {
        if (video.hasAttribute("src")) box.replaceChildren(el("span", { textContent: "can't be played here" }));
      });
      box.replaceChildren(video);
      this.videos.push(video);
    }
    this.lead?.addEventListener("ended", () => this.atEnd());
  }

  /** Release the videos and their memory. */
  close() {
    this.pause();
    for (const video of this.videos) {
      URL.revokeObjectURL(video.src);
      video.removeAttribute("src");
      video.load();
      video.remove();
    }
    this.videos = [];
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  async play() {
    this.open();
    playing?.pause();
    playing = this;
    this.showState();
    if (this.frame >= this.frames - 1) this.seek(0);
    await Promise.all(this.videos.map(seekable));
    if (!this.isPlaying) return;
    this.setSpeed(speedOf.chosen);
    await Promise.allSettled(this.videos.map((video) => video.play()));
    this.tick();
  }

  /** Stop all videos at the frame of the clock. */
  pause() {
    if (!this.isPlaying) return;
    playing = null;
    cancelAnimationFrame(this.timer);
    this.videos.forEach((video) => video.pause());
    this.seek(this.now());
    this.showState();
  }

  setSpeed(speed) { this.videos.forEach((video) => { video.playbackRate = speed; }); }

  /** Keep the other videos at the time of the first. */
  tick() {
    cancelAnimationFrame(this.timer);
    if (!this.isPlaying) return;
    for (const video of this.videos.slice(1)) {
      const drift = video.currentTime - this.lead.currentTime;
      if (Math.abs(drift) > LARGE_DRIFT) video.currentTime = this.lead.currentTime;
      const speed = speedOf.chosen * (Math.abs(drift) * this.rate > 0.25 ? clamp(1 - 4 * drift, 0.7, 1.3) : 1);
      if (Math.abs(video.playbackRate - speed) > 0.01) video.playbackRate = speed;
    }
    this.show(this.now());
    this.timer = requestAnimationFrame(() => this.tick());
  }

  /** The frame of the clock. */
  now() {
    if (!this.lead.duration) return this.frame; // not loaded yet
    return clamp(Math.floor(this.lead.currentTime * this.rate + 1e-3), 0, this.frames - 1);
  }

  async atEnd() {
    if (!this.isPlaying) return;
    if (!byId("loop").checked) {
      this.pause();
      return;
    }
    playing = null; // until all are back at the start
    this.videos.forEach((video) => video.pause());
    this.seek(0);
    await this.play();
  }

  seek(frame) {
    this.show(frame);
    this.videos.forEach((video) => this.put(video, frame));
  }

  /**
   * Show one frame, at the middle of its time so that rounding can't show its neighbour. A video that is still
   * seeking another frame (Chromium may hang when interrupted) seeks this one afterwards.
   */
  put(video, frame) {
    if (!video.duration || video.seeking) return;
    const time = ((frame + 0.5) / this.frames) * video.duration;
    if (Math.abs(video.currentTime - time) > 1e-4) video.currentTime = time;
  }

  step(frames) {
    this.pause();
    this.seek(clamp(this.frame + frames, 0, this.frames - 1));
  }

  show(frame) {
    this.frame = frame;
    this.scrubber.value = frame;
    this.counter.textContent = this.place(frame);
  }

  showState() {
    this.playButton.textContent = this.isPlaying ? "❚❚" : "▶\ufe0e";
    this.playButton.title = this.isPlaying ? "Pause" : "Play";
    this.playButton.setAttribute("aria-label", this.playButton.title);
  }

  /** Magnify the same spot of every picture, or show all of it again. */
  magnify(event) {
    const large = event !== null && !this.node.classList.contains("large");
    this.node.classList.toggle("large", large);
    const pixels = large ? (this.lead?.videoWidth ?? 0) / this.frameBoxes[0].clientWidth : 0;
    this.node.style.setProperty("--zoom", large ? Math.max(MAGNIFIED, pixels) : 1);
    if (large) this.lookAt(event);
  }

  look(event) {
    if (choice.view === "wipe") this.stage.style.setProperty("--wipe", `${100 * fractions(event).x}%`);
    else if (this.node.classList.contains("large")) this.lookAt(event);
  }

  lookAt(event) {
    const { x, y } = fractions(event);
    this.node.style.setProperty("--spot", `${100 * x}% ${100 * y}%`);
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.node.requestFullscreen();
  }
}

/** Position of an event in its picture, from 0 to 1. */
function fractions(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return { x: clamp((event.clientX - box.left) / box.width, 0, 1), y: clamp((event.clientY - box.top) / box.height, 0, 1) };
}

/** Wait until a video can play from its position. */
function seekable(video) {
  const isReady = () => video.error || !video.isConnected || (video.readyState >= 2 && !video.seeking);
  return new Promise((done) => {
    const check = () => { if (isReady()) done(); };
    ["canplay", "seeked", "emptied", "error"].forEach((name) => video.addEventListener(name, check));
    check();
  });
}

const nearScreen = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (isIntersecting) cards.get(target)?.open();
    else cards.get(target)?.close();
  }
}, { rootMargin: "400px" });

/** Redraw the cards for the current choices. */
function showCards() {
  playing?.pause();
  for (const [node, card] of cards) {
    nearScreen.unobserve(node);
    card.close();
  }
  cards.clear();
  latest = null;
  const clips = DATA.clips.map((clip) => clip.name).filter((clip) => entriesOf(clip).length);
  const ranks = new Map(clips.map((clip) => [clip, rankOf(clip)]));
  clips.sort((a, b) => ranks.get(a) - ranks.get(b) || a.localeCompare(b));
  const made = clips.map((clip) => new Card(clip));
  byId("cards").replaceChildren(...made.map((card) => card.node));
  for (const card of made) {
    cards.set(card.node, card);
    nearScreen.observe(card.node);
  }
}

/** Names that can be first and second. */
function pairNames() {
  const names = DATA.clips.flatMap((clip) => entriesOf(clip.name).map(nameOf));
  return [ORIGINAL, ...new Set(names)];
}

/** The row of choices, redrawn with each choice because the names depend on the others. */
function showChoices() {
  const steps = [...new Set(DATA.rows.filter((row) => row.size === choice.size).map((row) => row.steps))].sort((a, b) => a - b);
  const names = pairNames();
  const models = names.length > 2 ? names.slice(1) : names; // a lone model is compared with the original
  if (!names.includes(choice.first)) choice.first = models.find((name) => name !== choice.second);
  if (!names.includes(choice.second)) choice.second = models.find((name) => name !== choice.first);
  const set = (key) => (value) => {
    choice[key] = value;
    update();
  };
  const pairs = names.map((name) => [name, name]);
  const usesPair = choice.order === "gap" || choice.view === "wipe";
  byId("choices").replaceChildren(...[
    SIZES.length > 1 ? select("Size", SIZES.map((size) => [size, sizeText(size)]), choice.size, set("size")) : null,
    steps.length > 1 ? select("Steps", [["each", "each"], ...steps.map((count) => [String(count), String(count)])],
      choice.steps, set("steps")) : null,
    DATA.clips.length > 1 ? select("Order",
      [["worst", "lowest PSNR first"], ["gap", "largest gap A to B first"], ["name", "by name"]],
      choice.order, set("order")) : null,
    select("View", [["side", "side by side"], ["wipe", "A over B, wipe"]], choice.view, set("view")),
    usesPair ? select("A", pairs, choice.first, set("first")) : null,
    usesPair ? select("B", pairs, choice.second, set("second")) : null,
    select("Speed", [["1", "1"], ["0.5", "½"], ["0.25", "¼"]], String(speedOf.chosen), (value) => {
      speedOf.chosen = Number(value);
      playing?.setSpeed(speedOf.chosen);
    }),
    el("label", { className: "check" }, el("input", { type: "checkbox", id: "loop", checked: byId("loop")?.checked ?? true }), "loop"),
    MODELS.length > 1 ? modelChecks() : null,
  ].filter(Boolean));
}

function modelChecks() {
  return el("fieldset", {}, el("legend", { textContent: "Models" }), ...MODELS.map((model) => {
    const box = el("input", { type: "checkbox", checked: !choice.hidden.has(model) });
    box.addEventListener("change", () => {
      if (box.checked) choice.hidden.delete(model);
      else choice.hidden.add(model);
      update();
    });
    return el("label", { className: "check" }, box, dot(model), model);
  }));
}

function update() {
  const position = [...byId("choices").elements].indexOf(document.activeElement);
  showChoices();
  byId("choices").elements[position]?.focus();
  showCards();
}

/** The card that the keyboard is for: the one in use, else the first that is well in sight. */
function cardInSight() {
  const visible = [...cards.values()].filter((card) => {
    const { top, bottom } = card.stage.getBoundingClientRect();
    return top < window.innerHeight * 0.7 && bottom > window.innerHeight * 0.3 && card.videos.length;
  });
  return visible.includes(latest) ? latest : visible[0];
}

function onKey(event) {
  const [card, tag] = [cardInSight(), event.target.tagName];
  if (!card || event.altKey || event.ctrlKey || event.metaKey || ["SELECT", "SUMMARY", "A"].includes(tag)) return;
  if (event.key === " " && tag !== "BUTTON" && event.target.type !== "checkbox") card.toggle();
  else if (event.key === "ArrowLeft") card.step(-1);
  else if (event.key === "ArrowRight") card.step(1);
  else if (event.key === "Escape") return card.magnify(null);
  else return;
  event.preventDefault();
}

function showClips() {
  const missing = DATA.originals.filter((one) => one.left_out).length;
  byId("left-out").hidden = missing === 0;
  byId("left-out").textContent = `${counted(missing, "clip")} of ${DATA.originals.length} (each size counted) ` +
    `have no videos here: this page holds ${DATA.limit_mb} MB of them, the worst clips first.`;
  const steps = DATA.rows.map((row) => row.steps);
  if (new Set(steps).size > 1) choice.steps = String(Math.min(...steps));
  update();
  document.addEventListener("keydown", onKey);
}
