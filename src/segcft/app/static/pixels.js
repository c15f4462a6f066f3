// From bytes to pictures. Images are bytes (H, W, C) on the model's grid.

export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export function toCanvas(width, height, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = colour(i);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Three channels of an image are colours; of a volume the first one is shown.
export function picture(spec, bytes) {
  const [height, width] = spec.size;
  const { channels } = spec;
  if (channels === 3 && !spec.volume) return toCanvas(width, height, (i) => bytes.subarray(3 * i, 3 * i + 3));
  return toCanvas(width, height, (i) => Array(3).fill(bytes[channels * i]));
}

// Counterfactual less image in grey levels, of the channel that changes most: Float32Array (H W).
export function difference(spec, before, after) {
  const count = before.length / spec.channels;
  const result = new Float32Array(count);
  for (let i = 0; i < before.length; i++) {
    const place = Math.floor(i / spec.channels);
    const change = after[i] - before[i];
    if (Math.abs(change) > Math.abs(result[place])) result[place] = change;
  }
  return result;
}

const ROUND = [5, 10, 20, 30, 50, 75, 100, 150, 200, 255];

// Where a colour scale ends: a round number that all but the few extreme pixels are within.
export function limitOf(values) {
  const sizes = values.map(Math.abs).sort();
  const most = sizes[Math.floor(0.995 * (sizes.length - 1))];
  return ROUND.find((limit) => limit >= most) ?? 255;
}

// Stops from nothing to much. What is unchanged has the room's own brightness, so that change alone is seen.
const SCALES = {
  dark: {
    more: [[15, 19, 24], [176, 48, 40], [255, 170, 138]],
    less: [[15, 19, 24], [34, 94, 176], [140, 203, 255]],
    doubt: [[15, 19, 24], [110, 78, 160], [240, 190, 255]],
  },
  light: {
    more: [[247, 247, 247], [227, 120, 96], [150, 16, 36]],
    less: [[247, 247, 247], [102, 163, 208], [20, 72, 140]],
    doubt: [[247, 247, 247], [170, 130, 205], [72, 20, 120]],
  },
};

function along(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const k = Math.min(Math.floor(at), stops.length - 2);
  return stops[k].map((value, c) => Math.round(value + (stops[k + 1][c] - value) * (at - k)));
}

export const theme = () => document.documentElement.dataset.theme;

export function signedColour(value, limit) {
  const scale = SCALES[theme()];
  return along(value < 0 ? scale.less : scale.more, Math.abs(value) / limit);
}

export const doubtColour = (value, limit) => along(SCALES[theme()].doubt, value / limit);

export function gradient(colour, from, to) {
  const stops = Array.from({ length: 9 }, (_, k) => `rgb(${colour(from + ((to - from) * k) / 8).join()})`);
  return `linear-gradient(to right, ${stops.join()})`;
}

// The closed lines x0, y0, x1, y1, ... of an outline, rounded off: each point becomes a curve's control point.
export function trace(context, lines, scale) {
  context.beginPath();
  for (const line of lines) {
    const count = line.length / 2 - 1; // the last point is the first
    const point = (k) => [line[2 * (k % count)] * scale[0], line[2 * (k % count) + 1] * scale[1]];
    const middle = (k) => point(k).map((value, axis) => (value + point(k + 1)[axis]) / 2);
    context.moveTo(...middle(0));
    for (let k = 1; k <= count; k++) context.quadraticCurveTo(...point(k), ...middle(k));
    context.closePath();
  }
}
