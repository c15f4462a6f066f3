"use strict";
const study = document.body.dataset.study;
const cases = [...document.querySelectorAll("#cases img")];
const levels = [...document.querySelectorAll("#levels button")];
const at = (id) => document.getElementById(id);
let state = { place: 0, said: {} };
let reader = "";

// What a reader has said stays in the browser, under the reader's name, where the browser keeps anything.
function recall(name) {
  try { return JSON.parse(localStorage.getItem(`segcft-readers-${study}-${name}`)) || { place: 0, said: {} }; }
  catch { return { place: 0, said: {} }; }
}

function keep() {
  try { localStorage.setItem(`segcft-readers-${study}-${reader}`, JSON.stringify(state)); } catch { /* it keeps nothing */ }
}

function begin() {
  reader = at("reader").value.trim();
  if (!reader) return;
  state = recall(reader);
  at("start").hidden = true;
  at("reading").hidden = false;
  show();
}

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
  keep();
}

function say(level) {
  if (!reader || state.place >= cases.length) return;
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
    return [study, reader, image.dataset.code, level === undefined ? "" : level].map(cell).join(",");
  });
  const table = ["study,reader,case,level", ...lines].join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table], { type: "text/csv" }));
  link.download = `answers-${(reader || "reader").replace(/[^A-Za-z0-9]+/g, "-")}.csv`;
  link.click();
}

levels.forEach((button, k) => button.addEventListener("click", () => say(k)));
at("back").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("save").addEventListener("click", save);
at("begin").addEventListener("click", begin);
at("reader").addEventListener("keydown", (event) => { if (event.key === "Enter") begin(); });
document.addEventListener("keydown", (event) => {
  if (!reader || event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const level = Number(event.key) - 1;
  if (level >= 0 && level < levels.length) say(level);
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight" && !at("next").disabled) move(1);
});
