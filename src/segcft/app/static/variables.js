// A row a variable: a slider or buttons to set it, what was observed, asked for and obtained.

import { capital, change, digits, make, show, withUnit } from "./dom.js";
import { followers } from "./graph.js";

const BEYOND = 0.08; // a slider goes this share of the training range further, so that its end can be felt

export class Variables {
  // `on.set(name, value)`, `on.release(name)`, `on.know(name, value or null)`.
  constructor(root, spec, on) {
    this.spec = spec;
    this.on = on;
    const row = (variable) => (variable.categories.length ? new Category(variable, on) : new Slider(variable, on));
    this.rows = new Map(spec.variables.map((variable) => [variable.name, row(variable)]));
    root.replaceChildren(...spec.variables.filter(({ of }) => !of).flatMap((variable) => this.together(variable)));
  }

  // The row of a variable, and folded below it those of further measures of the same structure.
  together(variable) {
    const row = this.rows.get(variable.name);
    const more = this.spec.variables.filter(({ of }) => of === variable.name).map(({ name }) => this.rows.get(name));
    if (!more.length) return [row.element];
    const structure = this.spec.structures.find((one) => one.variable === variable.name);
    const summary = make("summary", {}, `${more.length} more of the ${structure?.label ?? variable.label}`);
    const folded = make("details", { class: "more" }, summary, ...more.map(({ element }) => element));
    for (const one of more) one.folded = folded;
    return [row.element, folded];
  }

  warn(name, texts) {
    this.rows.get(name).warn(texts);
  }

  update(record, set, sources) {
    const moved = followers(this.spec.variables, record.variables);
    for (const [name, row] of this.rows) {
      row.update(record.variables[name], set[name], moved.has(name), sources[name]);
    }
  }
}

class Row {
  constructor(variable, on) {
    this.variable = variable;
    this.state = make("span", { class: "state" });
    const named = { "aria-label": `Release ${variable.label}`, title: "Let its causes decide again" };
    this.release = make("button", { type: "button", class: "release", hidden: true, ...named }, "release");
    this.release.addEventListener("click", () => on.release(variable.name));
    this.observed = make("dd", {});
    this.asked = make("dd", {});
    this.askedTerm = make("dt");
    this.warnings = make("div");
    this.obtained = make("dd", { class: "obtained" });
    this.labelled = `label-${variable.name}`;
    const title = make("h3", { id: this.labelled }, capital(variable.label));
    this.element = make(
      "section",
      { class: "variable", "data-variable": variable.name, "aria-labelledby": this.labelled },
      make("div", { class: "top" }, title, this.state, this.release),
    );
  }

  terms() {
    const list = make("dl", {}, term("observed", this.observed), make("div", {}, this.askedTerm, this.asked));
    if (this.variable.isMeasured) list.append(term("obtained", this.obtained));
    return list;
  }

  warn(texts) {
    if (texts.length && this.folded) this.folded.open = true; // or nobody would see it
    this.warnings.replaceChildren(...texts.map((text) => make("p", { class: "warning" }, text)));
  }

  update(row, set, moved, source) {
    const isSet = set !== undefined;
    this.element.classList.toggle("set", isSet);
    this.element.classList.toggle("follows", moved && !isSet);
    if (isSet && this.folded) this.folded.open = true;
    this.release.hidden = !isSet;
    this.askedTerm.textContent = isSet ? "asked" : "expected";
    const by = change(this.variable, row.before, isSet ? set : row.after);
    this.state.textContent = isSet ? `set${by && `, ${by}`}` : moved ? `follows${by && `, ${by}`}` : "";
    this.known.update(row, source);
    if (this.variable.isMeasured) {
      const gained = change(this.variable, row.before, row.obtained);
      const spread = row.obtained_sd === undefined ? "" : ` \u00b1 ${show(this.variable, row.obtained_sd)}`;
      const value = `${show(this.variable, row.obtained)}${spread} ${this.variable.unit}`;
      this.obtained.textContent = gained ? `${value}, ${gained}` : value;
      const ends = [row.interval_low, row.interval_high].map((end) => end !== undefined && show(this.variable, end));
      this.obtained.title = ends[0] === false ? "" : `in 90 % of answers what was asked for is between ${ends.join(" and ")} ${this.variable.unit}`;
    }
  }
}

// What was observed: read from the image, or editable.
class Known {
  constructor(variable, on) {
    this.variable = variable;
    this.source = make("small", { class: "source" });
    if (variable.isMeasured) {
      this.value = make("span");
      this.element = make("span", {}, this.value);
      return;
    }
    const label = `Observed ${variable.label}`;
    const options = variable.categories.map((name) => make("option", { value: name }, name));
    this.input = variable.categories.length
      ? make("select", { "aria-label": label }, ...options, make("option", { value: "" }, "infer"))
      : make("input", { type: "number", step: "any", "aria-label": label });
    this.input.addEventListener("change", () => {
      const text = this.input.value;
      on.know(variable.name, text === "" ? null : variable.categories.length ? text : Number(text));
    });
    this.element = make("span", {}, this.input, this.source);
  }

  update(row, source) {
    if (!this.input) {
      this.value.textContent = withUnit(this.variable, row.before);
      return;
    }
    if (document.activeElement !== this.input) {
      this.input.value = typeof row.before === "number" ? row.before.toFixed(digits(this.variable)) : row.before;
    }
    this.source.textContent = `${source ?? row.source}${this.sure(row)}`;
  }

  // How sure an inferred value is.
  sure({ sd, probability }) {
    if (sd !== undefined) return ` \u00b1 ${show(this.variable, sd)}`;
    return probability === undefined ? "" : `, ${Math.round(100 * probability)} %`;
  }
}

const term = (name, value) => make("div", {}, make("dt", {}, name), value);

class Slider extends Row {
  constructor(variable, on) {
    super(variable, on);
    const { low, high, least, mayBeZero, central } = variable;
    const beyond = BEYOND * (high - low);
    this.step = nice((high - low) / 100);
    const floor = least === null ? -Infinity : mayBeZero ? least : this.step;
    this.min = Math.max(Math.floor((low - beyond) / this.step) * this.step, floor);
    this.max = Math.ceil((high + beyond) / this.step) * this.step;
    const hint = `range-${variable.name}`;
    const label = `${variable.label} asked for${variable.unit && `, in ${variable.unit}`}`;
    const named = { "aria-labelledby": this.labelled, "aria-describedby": hint };
    this.slider = make("input", { type: "range", step: "any", ...named });
    this.number = make("input", { type: "number", step: "any", "aria-label": label });
    this.slider.addEventListener("input", () => on.set(variable.name, this.rounded(Number(this.slider.value))));
    // Arrow keys go by round steps; "any" lets the thumb show what was observed exactly.
    this.slider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      const value = Math.min(Math.max(Number(this.slider.value) + by * this.step, this.min), this.max);
      on.set(variable.name, this.rounded(value));
    });
    this.number.addEventListener("change", () => {
      if (this.number.value !== "") on.set(variable.name, Number(this.number.value));
    });
    this.marks = {
      full: make("i", { class: "full" }),
      central: make("i", { class: "central" }),
      before: make("i", { class: "mark before", title: "observed" }),
      obtained: make("i", { class: "mark got", title: "obtained", hidden: !variable.isMeasured }),
    };
    this.known = new Known(variable, on);
    this.observed.append(this.known.element);
    this.asked.append(this.number);
    const track = make("div", { class: "track", "aria-hidden": "true" }, ...Object.values(this.marks));
    const mostly = central.map((value) => show(variable, value)).join(" to ");
    const range = `trained on ${show(variable, low)} to ${withUnit(variable, high)}, mostly ${mostly}`;
    this.element.append(
      make("div", { class: "slide" }, track, this.slider),
      make("p", { class: "range", id: hint }, range),
      this.terms(),
      this.warnings,
    );
  }

  rounded(value) {
    const round = Math.round(value / this.step) * this.step;
    return Number(Math.min(Math.max(round, this.min), this.max).toPrecision(10));
  }

  update(row, set, moved, source) {
    super.update(row, set, moved, source);
    const value = set ?? row.after;
    // What was observed, or typed, may be beyond.
    const values = [this.min, this.max, row.before, value].filter((one) => Number.isFinite(one));
    const [min, max] = [Math.min(...values), Math.max(...values)];
    Object.assign(this.slider, { min, max, value });
    this.slider.setAttribute("aria-valuetext", withUnit(this.variable, value));
    if (document.activeElement !== this.number || set === undefined) {
      this.number.value = Number.isFinite(value) ? value.toFixed(digits(this.variable)) : "";
    }
    const at = (number) => `${(100 * (number - min)) / (max - min)}%`;
    const between = (mark, [from, to]) => {
      mark.style.left = at(from);
      mark.style.right = at(max + min - to);
    };
    between(this.marks.full, [this.variable.low, this.variable.high]);
    between(this.marks.central, this.variable.central);
    this.marks.before.style.left = at(row.before);
    if (row.obtained !== undefined) this.marks.obtained.style.left = at(Math.min(Math.max(row.obtained, min), max));
    this.element.classList.toggle("beyond", value < this.variable.low || value > this.variable.high);
  }
}

class Category extends Row {
  constructor(variable, on) {
    super(variable, on);
    const radio = (name) => make("input", { type: "radio", name: `set-${variable.name}`, value: name });
    this.radios = variable.categories.map(radio);
    const labels = this.radios.map((input) => make("label", {}, input, make("span", {}, input.value)));
    const choice = make("div", { class: "choice", role: "radiogroup", "aria-labelledby": this.labelled }, ...labels);
    choice.addEventListener("change", ({ target }) => on.set(variable.name, target.value));
    this.known = new Known(variable, on);
    this.observed.append(this.known.element);
    this.asked.append(choice);
    this.element.append(this.terms(), this.warnings);
  }

  update(row, set, moved, source) {
    super.update(row, set, moved, source);
    for (const input of this.radios) input.checked = input.value === (set ?? row.after);
  }
}

// The nearest of 1, 2, 5, 10, ... from below.
function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * [5, 2, 1].find((digit) => digit * power <= step);
}
