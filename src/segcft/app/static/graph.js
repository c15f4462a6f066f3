// The causal graph, laid out by the server. What is set by hand has no causes any more: its incoming arrows are cut.

import { $, capital, draw, withUnit } from "./dom.js";

const MOST_BESIDE = 600; // px of a graph that can be read in half of the room

export class Graph {
  constructor(root, spec) {
    this.spec = spec;
    const { width, height, boxes, arrows, ties, image, labels } = spec.graph;
    const variables = new Map(spec.variables.map((variable) => [variable.name, variable]));
    this.title = draw("title", { id: "graph-title" });
    this.nodes = new Map();
    this.edges = arrows.map((arrow) => ({ from: arrow.cause, to: arrow.effect, group: edge(arrow) }));
    this.ties = ties.map((tie) => ({ pair: [tie.first, tie.second], group: arc(tie) }));
    const drawn = boxes.map((box) =>
      box.name === image ? imageNode(box) : this.node(variables.get(box.name), labels[box.name], box));
    const lines = draw("g", {}, ...[...this.edges, ...this.ties].map(({ group }) => group));
    const named = { role: "img", "aria-labelledby": "graph-title" };
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, ...named }, this.title, lines, draw("g", {}, ...drawn));
    svg.style.maxWidth = `${width * 1.1}px`;
    $("below").classList.toggle("stacked", width > MOST_BESIDE);
    $("tied").hidden = !ties.length;
    root.replaceChildren(svg);
  }

  node(variable, label, box) {
    const words = lines(label);
    const top = words.length === 1 ? -5 : -10;
    const name = words.map((line, k) => draw("text", { class: "name", y: top + 12 * k }, line));
    const value = draw("text", { class: "value", y: words.length === 1 ? 14 : 17 });
    const group = draw("g", { class: "node", "data-node": variable.name, transform: `translate(${box.x},${box.y})` },
      rectangle(box, 6), ...name, value);
    this.nodes.set(variable.name, { group, value, variable });
    return group;
  }

  update(record) {
    const rows = record.variables;
    const moved = followers(this.spec.variables, rows);
    for (const [name, { group, value, variable }] of this.nodes) {
      value.textContent = withUnit(variable, rows[name].after);
      group.classList.toggle("set", rows[name].intervened);
      group.classList.toggle("follows", moved.has(name));
    }
    const cut = [];
    for (const { from, to, group } of this.edges) {
      // What is derived keeps following: an intervention on it is one on a variable that it follows from.
      const follows = to === this.spec.graph.image || this.nodes.get(to).variable.isDerived;
      const severed = !follows && rows[to].intervened;
      const active = !severed && (rows[from].intervened || moved.has(from));
      group.classList.toggle("severed", severed);
      group.classList.toggle("active", active);
      if (severed) cut.push(`${from} to ${to}`);
    }
    for (const { pair, group } of this.ties) {
      const severed = pair.some((name) => rows[name].intervened);
      group.classList.toggle("severed", severed);
      if (severed) cut.push(`what ${pair.join(" and ")} have in common`);
    }
    const plain = (text) => text.replaceAll("_", " ");
    const said = this.spec.variables
      .filter(({ parents }) => parents.length)
      .map(({ label, parents }) => capital(`${label} is caused by ${plain(parents.join(" and "))}.`));
    const tied = this.ties.map(({ pair }) => capital(plain(`${pair.join(" and ")} have causes in common that are not shown.`)));
    const severed = cut.length ? `Cut: ${plain(cut.join(", "))}.` : "Nothing is cut.";
    this.title.textContent = ["Causal graph.", ...said, ...tied, "All cause the image.", severed].join(" ");
  }
}

// The names below what is set, which are not set themselves.
export function followers(variables, rows) {
  const below = new Set();
  let before = -1;
  while (before !== below.size) {
    before = below.size;
    for (const { name, parents } of variables) {
      const moved = parents.some((parent) => rows[parent].intervened || below.has(parent));
      if (moved && !rows[name].intervened) below.add(name);
    }
  }
  return below;
}

const edge = ({ cause, effect, path, head, cut: [x, y, angle] }) =>
  draw("g", { class: "edge", "data-edge": `${cause}>${effect}` }, line(path), tip(`translate(${head})`),
    // Two strokes across: the arrow is severed here.
    draw("path", { class: "cut", transform: `translate(${x},${y}) rotate(${angle})`, d: "M-4,-6 L-1,6 M1,-6 L4,6" }));

const arc = ({ first, second, path, ends }) =>
  draw("g", { class: "edge tie", "data-tie": `${first}-${second}` },
    line(path), ...ends.map(([x, y, turn]) => tip(`translate(${x},${y}) rotate(${turn})`)));

const line = (d) => draw("path", { class: "line", d });
const tip = (transform) => draw("path", { class: "head", transform, d: "M-4,-1 L4,-1 L0,6 Z" });

const rectangle = ({ width, height }, rx) => draw("rect", { x: -width / 2, y: -height / 2, width, height, rx });

const imageNode = (box) =>
  draw("g", { class: "node image", transform: `translate(${box.x},${box.y})` },
    rectangle(box, 4), draw("text", { y: 4 }, "image"));

// A label in at most two lines.
function lines(label) {
  if (label.length <= 17) return [capital(label)];
  const words = label.split(" ");
  const half = Math.ceil(words.length / 2);
  return [capital(words.slice(0, half).join(" ")), words.slice(half).join(" ")].filter(Boolean);
}
