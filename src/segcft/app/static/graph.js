// The causal graph. What is set by hand has no causes any more: its incoming arrows are cut.

import { capital, draw, withUnit } from "./dom.js";

const WIDTH = 124;
const HEIGHT = 46;
const APART = 46;
const GAP = 12;
const IMAGE = "image";

export class Graph {
  constructor(root, spec) {
    this.spec = spec;
    const rows = layers(spec.variables);
    const most = Math.max(2, ...rows.map((row) => row.length));
    const width = most * (WIDTH + GAP);
    const place = new Map();
    rows.forEach((row, down) => {
      // A row of causes stands over the gaps of the row below, so that long arrows pass between its nodes.
      row.forEach((name, k) => {
        const below = rows[down + 1]?.length ?? 0;
        const slots = below === row.length + 1 ? below : row.length;
        const shift = below === row.length + 1 ? 1 : 0.5;
        place.set(name, { x: (width * (k + shift)) / slots, y: HEIGHT / 2 + 1 + down * (HEIGHT + APART) });
      });
    });
    place.set(IMAGE, { x: width / 2, y: HEIGHT / 2 + 1 + rows.length * (HEIGHT + APART) - 8, image: true });
    const height = place.get(IMAGE).y + 17;
    this.title = draw("title");
    this.edges = [];
    this.nodes = new Map();
    const lines = draw("g");
    const boxes = draw("g");
    for (const { name, parents } of spec.variables) {
      for (const parent of parents) lines.append(this.edge(parent, name, place));
    }
    for (const { name } of spec.variables) lines.append(this.edge(name, IMAGE, place));
    for (const variable of spec.variables) boxes.append(this.node(variable, place.get(variable.name)));
    boxes.append(
      draw("g", { class: "node image", transform: `translate(${place.get(IMAGE).x},${place.get(IMAGE).y})` },
        draw("rect", { x: -40, y: -14, width: 80, height: 28, rx: 4 }),
        draw("text", { y: 4 }, "image")),
    );
    const named = { role: "img", "aria-labelledby": "graph-title" };
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, ...named }, this.title, lines, boxes);
    this.title.id = "graph-title";
    svg.style.maxWidth = `${width * 1.1}px`;
    root.replaceChildren(svg);
  }

  edge(from, to, place) {
    const [a, b] = [place.get(from), place.get(to)];
    const down = b.image ? 14 : HEIGHT / 2;
    // Arrows arrive a little apart, on the side that they come from.
    const apart = Math.max(-22, Math.min(22, (a.x - b.x) * 0.12));
    const [x1, y1, x2, y2] = [a.x - apart, a.y + HEIGHT / 2, b.x + apart, b.y - down - 7];
    const long = y2 - y1 > HEIGHT + APART;
    // A long arrow falls straight first, between the nodes that it passes.
    const path = long
      ? `M${a.x},${y1} V${y2 - APART + 10} C${a.x},${y2 - 12} ${x2},${y2 - 22} ${x2},${y2}`
      : `M${x1},${y1} L${x2},${y2}`;
    const [cutX, cutY] = [x1 + 0.62 * (x2 - x1), y1 + 0.62 * (y2 - y1)];
    const angle = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
    const cut = `translate(${cutX},${cutY}) rotate(${angle})`;
    const heading = long ? 90 : angle;
    const group = draw("g", { class: "edge", "data-edge": `${from}>${to}` },
      draw("path", { class: "line", d: path }),
      draw("path", { class: "head", transform: `translate(${x2},${y2}) rotate(${heading})`, d: "M-1,-4 L-1,4 L6,0 Z" }),
      // Two strokes across: the arrow is severed here.
      draw("path", { class: "cut", transform: cut, d: "M-4,-6 L-1,6 M1,-6 L4,6" }));
    this.edges.push({ from, to, group });
    return group;
  }

  node(variable, { x, y }) {
    const value = draw("text", { class: "value", y: 14 });
    const words = lines(variable.label.replace(/ area$/, ""));
    const top = words.length === 1 ? -5 : -10;
    const name = words.map((line, k) => draw("text", { class: "name", y: top + 12 * k }, line));
    if (words.length > 1) value.setAttribute("y", 17);
    const group = draw("g", { class: "node", "data-node": variable.name, transform: `translate(${x},${y})` },
      draw("rect", { x: -WIDTH / 2, y: -HEIGHT / 2, width: WIDTH, height: HEIGHT, rx: 6 }), ...name, value);
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
      const severed = to !== IMAGE && rows[to].intervened;
      const active = !severed && (rows[from].intervened || moved.has(from));
      group.classList.toggle("severed", severed);
      group.classList.toggle("active", active);
      if (severed) cut.push(`${from} to ${to}`);
    }
    const plain = (text) => text.replaceAll("_", " ");
    const said = this.spec.variables
      .filter(({ parents }) => parents.length)
      .map(({ label, parents }) => capital(`${label} is caused by ${plain(parents.join(" and "))}.`));
    const severed = cut.length ? `Cut: ${plain(cut.join(", "))}.` : "Nothing is cut.";
    this.title.textContent = ["Causal graph.", ...said, "All cause the image.", severed].join(" ");
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

// Rows of names, each below all of its causes.
function layers(variables) {
  const depth = new Map();
  const of = (name) => {
    if (!depth.has(name)) {
      const { parents } = variables.find((variable) => variable.name === name);
      depth.set(name, parents.length ? 1 + Math.max(...parents.map(of)) : 0);
    }
    return depth.get(name);
  };
  const rows = [];
  for (const { name } of variables) (rows[of(name)] ??= []).push(name);
  return rows;
}

// A label in at most two lines.
function lines(label) {
  if (label.length <= 17) return [capital(label)];
  const words = label.split(" ");
  const half = Math.ceil(words.length / 2);
  return [capital(words.slice(0, half).join(" ")), words.slice(half).join(" ")].filter(Boolean);
}
