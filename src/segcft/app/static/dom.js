// Making elements, and showing numbers.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

const proper = (text) => text.replace("-", "\u2212");

// A number with the digits that its variable deserves.
export function show(variable, value) {
  if (value == null) return "?";
  if (typeof value === "string") return value;
  return proper(value.toFixed(digits(variable)));
}

export function digits(variable) {
  const span = variable.high - variable.low;
  return span >= 200 ? 0 : span >= 10 ? 1 : 2;
}

export function withUnit(variable, value) {
  return variable.unit && value != null ? `${show(variable, value)}\u00a0${variable.unit}` : show(variable, value);
}

// The change from one number to another: in per cent of areas, else in the unit. Nothing if there is none.
export function change(variable, before, after) {
  if (typeof before !== "number" || typeof after !== "number") return "";
  const share = variable.isRatio && before > 0;
  const by = share ? (100 * (after - before)) / before : after - before;
  const text = Math.abs(by).toFixed(1);
  if (Number(text) === 0) return "";
  return `${by < 0 ? "\u2212" : "+"}${text}${share ? "\u00a0%" : ""}`;
}
