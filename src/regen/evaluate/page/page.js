// The heading and the settings of a report. Draws the page when all of it is loaded.

function showHeading() {
  const frames = DATA.clips.reduce((sum, clip) => sum + clip.frames, 0);
  byId("scope").textContent =
    `${counted(DATA.clips.length, "clip")}, ${counted(frames, "frame")}, at ${listed(SIZES.map(sizeText))}`;
}

function showSettings() {
  for (const [name, value] of Object.entries(DATA.settings)) {
    const short = JSON.stringify(value);
    const long = short.length < 80 ? short : JSON.stringify(value, null, 2);
    const text = typeof value === "string" ? value : value === null ? "none" : long;
    byId("settings").append(el("dt", { textContent: name.replaceAll("_", " ") }), el("dd", { textContent: text }));
  }
  const head = ["Clip", "Frames", "Size", "SHA-256"].map((text) => el("th", { textContent: text, scope: "col" }));
  const rows = DATA.clips.map((clip) => el("tr", {},
    el("td", { textContent: clip.name }),
    el("td", { textContent: clip.frames, className: "number" }),
    el("td", { textContent: `${clip.height}x${clip.width}`, className: "number" }),
    el("td", {}, el("code", { textContent: clip.sha256 }))));
  byId("hashes").append(el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

document.addEventListener("DOMContentLoaded", () => {
  showHeading();
  showSettings();
  showTable();
  showPlots();
  showClips();
});
