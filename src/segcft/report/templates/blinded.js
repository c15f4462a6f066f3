"use strict";
const study = document.body.dataset.study;
const cases = [...document.querySelectorAll("#cases img")];
const levels = [...document.querySelectorAll("#levels button")];
const at = (id) => document.getElementById(id);
const kept = `segcft-readers-${study}`;
const state = { reader: "", place: 0, said: {}, ...JSON.parse(localStorage.getItem(kept) || "{}") };

function show() {
  const done = state.place >= cases.length;
  const code = done ? "" : cases[state.place].dataset.code;
  cases.forEach((image, k) => { image.hidden = k !== state.place; });
  levels.forEach((button, k) => { button.setAttribute("aria-pressed", String(state.said[code] === k)); });
  at("levels").hidden = done;
  at("done").hidden = !done;
  at("back").disabled = state.place === 0;
  at("next").disabled = done || state.said[code] === undefined;
  const count = Object.keys(state.said).length;
  at("place").textContent = done ? `All ${cases.length} images` : `Image ${state.place + 1} of ${cases.length}`;
  at("bar").value = count;
  localStorage.setItem(kept, JSON.stringify(state));
}

function say(level) {
  if (state.place >= cases.length) return;
  state.said[cases[state.place].dataset.code] = level;
  move(1);
}

function move(step) {
  state.place = Math.min(cases.length, Math.max(0, state.place + step));
  show();
}

function cell(text) {
  return `"${String(text).replaceAll('"', '""')}"`;
}

function save() {
  const lines = cases.map((image) => {
    const level = state.said[image.dataset.code];
    return [study, state.reader, image.dataset.code, level === undefined ? "" : level].map(cell).join(",");
  });
  const table = ["study,reader,case,level", ...lines].join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
  link.download = `answers-${(state.reader || "reader").replace(/[^A-Za-z0-9]+/g, "-")}.csv`;
  link.click();
}

levels.forEach((button, k) => button.addEventListener("click", () => say(k)));
at("back").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("save").addEventListener("click", save);
at("reader").value = state.reader;
at("reader").addEventListener("input", (event) => { state.reader = event.target.value.trim(); show(); });
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const level = Number(event.key) - 1;
  if (level >= 0 && level < levels.length) say(level);
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight" && !at("next").disabled) move(1);
});
show();
