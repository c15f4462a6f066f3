// The page: one model, one image, what is known of it and what is asked.

import * as api from "./api.js";
import { $, make } from "./dom.js";
import { DRAWS, showDraws } from "./draws.js";
import { Graph } from "./graph.js";
import { fromBase64, picture, theme } from "./pixels.js";
import { Variables } from "./variables.js";
import { spoken, Viewer } from "./viewer.js";

const SETTLED = 350; // ms without a move, after which draws are made and numbers are said aloud
const EXAMPLE = "example";
const HINT = "Set something, and other answers appear that fit the image as well.";
const GIVEN = "given";
const HEADER = "from the header";

const viewer = new Viewer();
const asker = new api.Asker(received, failed);
let spec, graph, variables, answer, newest, settling;
let image = null; // { pixels: base64, bytes, known: { name: value }, sources: { name: where from } }
let asked = {}; // what is set, by name
let own = null; // the file whose image is shown, which is read again for another model
let tried = null; // the file that was chosen last, whether it could be opened or not
const lengths = new WeakMap(); // of files of which it was said: height and width of a pixel in mm, a voxel's depth first
let opened = 0; // images and models chosen so far: a file that arrives after a later choice is not shown

function question() {
  const { pixels, known } = image;
  return { model: spec.name, pixels, known: { ...known }, do: { ...asked }, method: $("method").value };
}

function ask() {
  complain();
  clearTimeout(settling);
  $("draws").classList.add("old");
  newest = question();
  asker.ask(newest);
}

function received(told, question) {
  answer = told;
  const { record } = told;
  viewer.show(image.bytes, told);
  graph.update(record);
  variables.update(record, asked, image.sources);
  canSave(record.do.length > 0);
  showWarnings(record.warnings);
  $("page").setAttribute("aria-busy", "false");
  if (question.draws) {
    showDraws(spec, told, viewer.planes);
    $("draws").classList.toggle("old", question.of !== newest);
  }
  clearTimeout(settling);
  settling = setTimeout(() => settled(question), SETTLED);
}

// At the variable that a warning begins with; others on top.
function showWarnings(texts) {
  const about = (name) => texts.filter((text) => text.startsWith(`${name}: `));
  const others = texts.filter((text) => !spec.variables.some(({ name }) => text.startsWith(`${name}: `)));
  $("count").textContent = texts.length ? `${texts.length} ${texts.length === 1 ? "warning" : "warnings"}` : "";
  $("warnings").replaceChildren(...others.map((text) => make("p", { class: "warning" }, text)));
  const told = (name, text) => text.slice(name.length + 2).replace(/ -(?=\d)/g, " \u2212");
  for (const { name } of spec.variables) variables.warn(name, about(name).map((text) => told(name, text)));
}

function settled(question) {
  if ($("said").textContent !== spoken(spec, answer.record)) $("said").textContent = spoken(spec, answer.record);
  if ($("with-draws").checked && !question.draws) drawMore();
}

function drawMore() {
  if (Object.keys(asked).length) {
    asker.ask({ ...newest, draws: DRAWS, of: newest });
    return;
  }
  // Where nothing is asked every draw is the image itself.
  $("draws").replaceChildren(make("p", {}, HINT));
  $("draws").classList.remove("old");
}

function canSave(answered) {
  for (const button of document.querySelectorAll("[data-format]")) button.disabled = !answered;
}

function complain(text = "") {
  $("problem").textContent = text;
  $("problem").hidden = text === "";
}

function failed(error) {
  complain(error.message);
  $("page").setAttribute("aria-busy", "false");
}

function open({ pixels, known }, source, given = {}) {
  opened += 1;
  asker.forget();
  viewer.forget();
  asked = {};
  $("reset").disabled = true;
  canSave(false);
  const sources = Object.fromEntries(Object.keys(known).map((name) => [name, source]));
  for (const name of Object.keys(given)) sources[name] = GIVEN;
  image = { pixels, bytes: fromBase64(pixels), known: { ...known, ...given }, sources };
  $("viewer").hidden = $("question").hidden = false;
  $("invitation").hidden = true;
  $("draws").replaceChildren();
  ask();
}

async function choose(name) {
  const before = tried;
  opened += 1;
  complain();
  $("page").setAttribute("aria-busy", "true");
  let told;
  try {
    told = await api.describe(name);
  } catch (error) {
    if ($("model").value === name) failed(error);
    return;
  }
  if ($("model").value !== name) return; // another was chosen meanwhile
  asker.forget();
  clearTimeout(settling);
  spec = told;
  image = answer = null;
  canSave(false);
  graph = new Graph($("graph"), spec);
  viewer.setModel(spec, () => answer?.draws.length && showDraws(spec, answer, viewer.planes));
  variables = new Variables($("variables"), spec, {
    set: (name, value) => change(() => (asked[name] = value)),
    release: (name) => change(() => delete asked[name]),
    know(name, value) {
      if (value === null) delete image.known[name], delete image.sources[name];
      else (image.known[name] = value), (image.sources[name] = GIVEN);
      change(() => {});
    },
  });
  $("method").replaceChildren(...spec.methods.map(({ name, label }) => make("option", { value: name }, label)));
  $("method").value = spec.methods.at(-1).name;
  for (const button of document.querySelectorAll("[data-format]")) {
    button.hidden = !spec.formats.includes(button.dataset.format);
  }
  $("method-pick").hidden = spec.methods.length < 2;
  const tiles = spec.examples.map((example, k) => {
    const canvas = picture(spec, viewer.planes.flat(fromBase64(example.pixels), spec.channels));
    canvas.style.aspectRatio = spec.aspect;
    const open = () => select(example, k);
    const named = { "aria-label": example.label, title: example.label };
    return make("button", { type: "button", class: "example", ...named, onclick: open }, canvas);
  });
  $("examples").replaceChildren(...tiles);
  if (tried !== before) own = tried; // chosen meanwhile
  opened += 1; // and not for the model before
  askForSize();
  $("invitation").hidden = own !== null || spec.examples.length > 0;
  $("viewer").hidden = $("question").hidden = true;
  if (own) await openFile(own);
  else if (spec.examples.length) select(spec.examples[0], 0);
  else $("page").setAttribute("aria-busy", "false");
}

function select(example, k) {
  own = tried = null;
  askForSize();
  mark(k);
  open(example, EXAMPLE);
}

function mark(chosen) {
  [...$("examples").children].forEach((tile, k) => tile.setAttribute("aria-pressed", k === chosen));
}

function change(step) {
  step();
  $("reset").disabled = Object.keys(asked).length === 0;
  if (answer) variables.update(answer.record, asked, image.sources);
  ask();
}

async function openFile(file) {
  if (!file || !spec) return;
  complain();
  $("page").setAttribute("aria-busy", "true");
  tried = file;
  askForSize();
  const turn = (opened += 1);
  try {
    const read = await api.upload(spec.name, file, spec.sized ? lengths.get(file) : undefined);
    if (turn !== opened) return;
    const again = own === file && image; // as of another size: what was typed in of the person stays
    const given = again ? Object.entries(image.known).filter(([name]) => image.sources[name] === GIVEN) : [];
    own = file;
    mark(-1);
    open(read, HEADER, Object.fromEntries(given));
  } catch (error) {
    if (turn === opened) failed(error);
  }
}

// How large a pixel is, of a file that may not say it, where the model needs it.
function askForSize() {
  const [file, edges] = [tried, spec.volume ? ["depth", "height", "width"] : ["height", "width"]];
  $("sized").hidden = !spec.sized || !file;
  const fields = [...$("edges").querySelectorAll("input")];
  // Who is typing keeps the fields.
  if (!file || (askForSize.file === file && fields.length === edges.length)) return;
  askForSize.file = file;
  const said = lengths.get(file) ?? [];
  $("edges").replaceChildren(...edges.map((edge, k) => {
    const field = { type: "number", min: 0, step: "any", value: said[k] ?? "", onchange: () => sized(file) };
    return make("label", {}, edge, make("input", field));
  }));
}

// Once all lengths are there, or none is any more, the file is read again.
function sized(file) {
  const said = [...$("edges").querySelectorAll("input")].map(({ value }) => value);
  if (said.some(Boolean) && !said.every(Boolean)) return;
  if (said.every(Boolean)) lengths.set(file, said);
  else lengths.delete(file);
  if (file === tried) openFile(file);
}

async function save(format) {
  complain();
  try {
    const url = URL.createObjectURL(await api.fileOf(question(), format));
    make("a", { href: url, download: `counterfactual.${format}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    failed(error);
  }
}

// The theme is all that this page keeps, where the browser lets it.
function remember(name) {
  try {
    if (name) localStorage.setItem("theme", name);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const other = name === "dark" ? "Light" : "Dark";
  $("theme").textContent = other;
  $("theme").setAttribute("aria-label", `${other} theme`);
  remember(name);
  viewer.paint();
  if (answer?.draws.length) showDraws(spec, answer, viewer.planes);
}

$("model").addEventListener("change", ({ target }) => choose(target.value));
$("method").addEventListener("change", ask);
$("reset").addEventListener("click", () => change(() => (asked = {})));
$("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
$("variables").addEventListener("submit", (event) => event.preventDefault());
$("with-draws").addEventListener("change", ({ target }) => {
  if (!target.checked) $("draws").replaceChildren();
  else if (answer) drawMore();
});
$("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = ""; // the same file can be opened again
});
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => save(button.dataset.format));
}
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") openFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));

setTheme(remember() === "light" ? "light" : "dark");
try {
  const known = await api.models();
  const option = ({ name, description }) => make("option", { value: name, title: description }, name);
  $("model").replaceChildren(...known.map(option));
  $("model").parentElement.hidden = known.length < 2;
  await choose(known[0].name);
} catch (error) {
  failed(error);
}
