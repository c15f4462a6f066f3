// The images: side by side, one over the other with a divider, in turns, or their difference; with outlines.

import { $, make, show } from "./dom.js";
import { difference, fromBase64, gradient, limitOf, picture, signedColour, toCanvas, trace } from "./pixels.js";
import { AXES, Planes, traceEdges, unpack } from "./planes.js";

const FLICKER = 700; // ms: well below three flashes a second
const LABELS = { before: "Image", after: "Counterfactual, synthetic", difference: "Counterfactual less image" };
const PANES = {
  side: ["before", "after", "difference"],
  swipe: ["swipe"],
  flicker: ["flicker"],
  difference: ["difference"],
};
const KEYS = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02 };
Object.assign(KEYS, { PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 });

export class Viewer {
  constructor() {
    this.stage = $("stage");
    this.divider = 0.5;
    this.later = true; // of flicker: the counterfactual is shown
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.hidden = new Set();
    this.lines = { before: true, after: true };
    for (const key of Object.keys(this.lines)) {
      $(`outline-${key}`).addEventListener("change", ({ target }) => {
        this.lines[key] = target.checked;
        this.paint();
      });
    }
    $("modes").addEventListener("change", ({ target }) => this.setMode(target.value));
    $("play").addEventListener("click", () => {
      this.still = !this.still;
      this.tick();
    });
    new ResizeObserver(() => this.paint()).observe(this.stage);
  }

  // `moved` is called where other planes of a volume are shown.
  setModel(spec, moved) {
    this.spec = spec;
    this.answer = null;
    this.planes = new Planes(spec);
    this.moved = moved;
    this.found = false; // the planes go through what the model sees
    this.setSlices();
    this.hidden.clear();
    for (const place of [this.stage, $("viewer"), $("sources")]) place.classList.toggle("wide", spec.wide);
    this.stage.style.setProperty("--aspect", spec.aspect);
    $("outlines").hidden = spec.structures.length === 0;
    $("structures").replaceChildren(
      ...spec.structures.map(({ name, label, colour }) => {
        const swatch = make("i", { class: "swatch" });
        swatch.style.background = colour;
        const box = make("input", { type: "checkbox", checked: true, "data-structure": name });
        box.addEventListener("change", () => {
          if (box.checked) this.hidden.delete(name);
          else this.hidden.add(name);
          this.paint();
        });
        return make("label", { class: "tick" }, box, swatch, label);
      }),
    );
    this.setMode(this.mode ?? (matchMedia("(max-width: 700px)").matches ? "swipe" : "side"));
  }

  // A slider for each axis of a volume.
  setSlices() {
    const { volume } = this.spec;
    $("slices").hidden = !volume;
    const sliders = (volume?.size ?? []).map((length, axis) => {
      const range = make("input", { type: "range", min: 0, max: length - 1, step: 1, "data-axis": axis });
      range.addEventListener("input", () => this.go(this.planes.place.with(axis, Number(range.value))));
      return make("label", {}, AXES[axis], range);
    });
    $("slices").replaceChildren(...sliders);
    this.showPlace();
  }

  showPlace() {
    for (const range of $("slices").querySelectorAll("input")) range.value = this.planes.place[range.dataset.axis];
  }

  // Planes through another voxel.
  go(place) {
    if (!this.planes.put(place)) return;
    this.showPlace();
    if (!this.answer) return;
    this.cut();
    this.paint();
    this.moved();
  }

  // What the planes show at a point of a canvas; null where it is of an image, or there is no plane.
  pointed(canvas, event) {
    if (!this.spec.volume) return null;
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = this.spec.size;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return this.planes.at(row, column);
  }

  setMode(mode) {
    this.mode = mode;
    document.querySelector(`[name=mode][value=${mode}]`).checked = true;
    this.stage.dataset.mode = mode;
    // A large graph has no room beside the image.
    const room = !$("below").classList.contains("stacked");
    $("viewer").classList.toggle("beside", room && this.spec.wide === (mode === "side"));
    this.panes = PANES[mode].map((kind) => this.pane(kind));
    this.stage.replaceChildren(...this.panes.map(({ figure }) => figure));
    $("play").hidden = mode !== "flicker";
    this.tick();
  }

  pane(kind) {
    const canvas = make("canvas", { role: "img", "data-pane": kind });
    const frame = make("div", { class: "frame" }, canvas);
    const caption = make("figcaption", {}, make("span", { class: "what" }));
    if (kind === "swipe") frame.append(this.handle(frame));
    if (kind === "flicker") frame.addEventListener("click", () => this.turn());
    else if (kind !== "swipe") {
      frame.addEventListener("click", (event) => {
        const found = this.pointed(canvas, event);
        if (found) this.go(found.voxel);
      });
    }
    frame.addEventListener(
      "wheel",
      (event) => {
        const found = this.pointed(canvas, event);
        if (!found) return;
        event.preventDefault();
        const { axis } = found;
        this.go(this.planes.place.with(axis, this.planes.place[axis] + Math.sign(event.deltaY)));
      },
      { passive: false },
    );
    if (kind === "difference") caption.append(make("span", { class: "scale" }));
    if (kind === "swipe") caption.append(make("span", {}, LABELS.after));
    return { kind, canvas, caption, figure: make("figure", {}, frame, caption) };
  }

  // The divider is a slider: to drag anywhere on the image, or to move with the arrow keys.
  handle(frame) {
    const range = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": 100 };
    const named = { "aria-label": "Divider between image and counterfactual" };
    const handle = make("div", { class: "divider", ...range, ...named }, make("b", { "aria-hidden": "true" }));
    const put = (share) => {
      this.divider = Math.min(Math.max(share, 0), 1);
      handle.style.left = `${100 * this.divider}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * this.divider));
      this.paint();
    };
    const follow = (event) => {
      const box = frame.getBoundingClientRect();
      put((event.clientX - box.left) / box.width);
    };
    frame.addEventListener("pointerdown", (event) => {
      frame.setPointerCapture(event.pointerId);
      follow(event);
    });
    frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && follow(event));
    handle.addEventListener("keydown", (event) => {
      const by = KEYS[event.key];
      if (by === undefined) return;
      event.preventDefault();
      put(this.divider + by);
    });
    queueMicrotask(() => put(this.divider));
    return handle;
  }

  show(original, answer) {
    const { spec } = this;
    const after = fromBase64(answer.image);
    this.answer = answer;
    this.whole = { before: original, after, values: difference(spec, original, after) };
    this.limit = limitOf(this.whole.values);
    if (spec.volume) {
      const count = this.whole.values.length;
      const bits = (packed) => unpack(fromBase64(packed), count);
      this.masks = Object.fromEntries(
        Object.entries(answer.masks).map(([name, { before, after }]) => [
          name,
          { before: bits(before), after: bits(after) },
        ]),
      );
      const middle = this.found ? null : this.planes.middleOf(...Object.values(this.masks).map(({ before }) => before));
      this.found ||= middle !== null;
      if (middle && this.planes.put(middle)) this.showPlace();
    }
    this.cut();
    this.paint();
  }

  // The pictures of what the planes show.
  cut() {
    const { spec, planes, whole } = this;
    this.before = picture(spec, planes.flat(whole.before, spec.channels));
    this.after = picture(spec, planes.flat(whole.after, spec.channels));
    this.values = planes.flat(whole.values);
    this.flatMasks = spec.volume
      ? Object.fromEntries(
          Object.entries(this.masks).map(([name, { before, after }]) => [
            name,
            { before: planes.flat(before), after: planes.flat(after) },
          ]),
        )
      : null;
  }

  // Another image: the planes go through what the model sees in it.
  forget() {
    this.found = false;
  }

  tick() {
    clearInterval(this.timer);
    $("play").textContent = this.still ? "Play" : "Pause";
    if (this.mode === "flicker" && !this.still) this.timer = setInterval(() => this.turn(), FLICKER);
    this.paint();
  }

  turn() {
    this.later = !this.later;
    this.paint();
  }

  paint() {
    if (!this.answer) return;
    for (const pane of this.panes) this.paintPane(pane);
  }

  paintPane({ kind, canvas, caption }) {
    const box = canvas.getBoundingClientRect();
    if (box.width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const layer = (image, which) => {
      context.drawImage(image, 0, 0, width, height);
      this.outline(context, which, width, height, ratio, kind);
    };
    const shown = kind === "flicker" ? (this.later ? "after" : "before") : kind;
    if (shown === "swipe") {
      layer(this.after, ["after"]);
      context.save();
      context.beginPath();
      context.rect(0, 0, width * this.divider, height);
      context.clip();
      layer(this.before, ["before"]);
      context.restore();
      caption.firstChild.textContent = LABELS.before;
    } else if (shown === "difference") {
      const [rows, columns] = this.spec.size;
      layer(toCanvas(columns, rows, (i) => signedColour(this.values[i], this.limit)), ["before", "after"]);
      caption.firstChild.textContent = LABELS.difference;
      this.scale(caption.lastChild);
    } else {
      layer(this[shown], shown === "before" ? ["before"] : kind === "flicker" ? ["after"] : ["before", "after"]);
      caption.firstChild.textContent = LABELS[shown];
    }
    canvas.dataset.shown = shown;
    canvas.setAttribute("aria-label", this.described(shown));
  }

  scale(place) {
    const bar = make("i", { class: "colour-bar" });
    bar.style.backgroundImage = gradient((value) => signedColour(value, 1), -1, 1);
    const levels = this.spec.channels === 1 ? "grey levels" : "levels of the channel that changes most";
    place.replaceChildren(`\u2212${this.limit}`, bar, `+${this.limit} ${levels}`);
  }

  described(shown) {
    const asked = this.answer.record.do.join(", ") || "nothing asked yet";
    return {
      before: "The image",
      after: `Synthetic counterfactual: ${asked}`,
      swipe: `Image and synthetic counterfactual: ${asked}`,
      difference: `Difference, counterfactual less image: ${asked}`,
    }[shown];
  }

  outline(context, which, width, height, ratio, kind) {
    const [rows, columns] = this.spec.size;
    for (const { name, colour } of this.spec.structures) {
      if (this.hidden.has(name)) continue;
      for (const time of which) {
        if (!this.lines[time]) continue;
        const scale = [width / columns, height / rows];
        if (this.flatMasks) traceEdges(context, this.flatMasks[name][time], this.spec.size, scale);
        else trace(context, this.answer.outlines[name][time], scale);
        const faint = which.length > 1 && time === "before";
        const thin = kind === "difference"; // the colours below are what is to be seen
        context.setLineDash(faint ? [4 * ratio, 3 * ratio] : []);
        context.lineJoin = "round";
        if (!faint && !thin) {
          Object.assign(context, { globalAlpha: 0.45, strokeStyle: "#000", lineWidth: 2.6 * ratio });
          context.stroke();
        }
        const lineWidth = (faint || thin ? 1 : 1.4) * ratio;
        Object.assign(context, { globalAlpha: thin ? 0.7 : 1, strokeStyle: colour, lineWidth });
        context.stroke();
      }
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
    if (this.spec.volume) this.cross(context, [width / columns, height / rows], ratio);
  }

  // Where the planes cross.
  cross(context, [across, down], ratio) {
    context.beginPath();
    for (const [x0, y0, x1, y1] of this.planes.lines()) {
      context.moveTo(x0 * across, y0 * down);
      context.lineTo(x1 * across, y1 * down);
    }
    Object.assign(context, { globalAlpha: 0.35, strokeStyle: "#fff", lineWidth: ratio });
    context.stroke();
    context.globalAlpha = 1;
  }
}

// What to say aloud of the measures: asked for and obtained.
export function spoken(spec, record) {
  const asked = spec.variables.filter(({ name, isMeasured }) => isMeasured && record.variables[name].intervened);
  const parts = asked.map((variable) => {
    const row = record.variables[variable.name];
    const [asked, obtained] = [row.after, row.obtained].map((value) => show(variable, value));
    return `${variable.label}: asked ${asked}, obtained ${obtained} ${variable.unit}.`;
  });
  const count = record.warnings.length;
  if (count) parts.push(`${count} ${count === 1 ? "warning" : "warnings"}.`);
  return parts.join(" ");
}
