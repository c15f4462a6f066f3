// What is seen of a volume: three planes through one voxel, as on a radiologist's screen. Across height (coronal) at the
// upper left, across width (sagittal) beside it, the head up in both, across depth (axial) below. Of an image it is the
// image. Volumes are (D, H, W, C), pictures (H, W, C).

export const AXES = ["axial", "coronal", "sagittal"];

export class Planes {
  constructor(spec) {
    this.volume = spec.volume;
    this.size = spec.size;
    if (this.volume) this.put(this.volume.size.map((length) => Math.floor(length / 2)));
  }

  // The voxel at a pixel of the picture, and across which axis the plane there is; null where there is none.
  at(row, column) {
    const { size, shown } = this.volume;
    const along = (i, axis) => Math.min(Math.floor(((i + 0.5) * size[axis]) / shown[axis]), size[axis] - 1);
    const [z, y, x] = this.place;
    if (row < shown[0]) {
      const up = size[0] - 1 - along(row, 0);
      if (column < shown[2]) return { axis: 1, voxel: [up, y, along(column, 2)] };
      return { axis: 2, voxel: [up, along(column - shown[2], 1), x] };
    }
    return column < shown[2] ? { axis: 0, voxel: [z, along(row - shown[0], 1), along(column, 2)] } : null;
  }

  // Planes through another voxel; false where that is the one it was.
  put(place) {
    const inside = place.map((i, axis) => Math.min(Math.max(i, 0), this.volume.size[axis] - 1));
    if (this.place && inside.every((i, axis) => i === this.place[axis])) return false;
    this.place = inside;
    const [rows, columns] = this.size;
    const [, height, width] = this.volume.size;
    this.voxels = new Int32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const found = this.at(row, column);
        const [z, y, x] = found?.voxel ?? [];
        this.voxels[row * columns + column] = found ? (z * height + y) * width + x : -1;
      }
    }
    return true;
  }

  // Where the planes cross, each as a row or a column of the picture, from where to where.
  lines() {
    const { size, shown } = this.volume;
    const middle = (i, axis) => ((i + 0.5) * shown[axis]) / size[axis];
    const [z, y, x] = this.place;
    const [up, back, left] = [shown[0] - middle(z, 0), middle(y, 1), middle(x, 2)];
    const [rows, columns] = this.size;
    return [
      [0, up, columns, up],
      [left, 0, left, rows],
      [0, shown[0] + back, shown[2], shown[0] + back],
      [shown[2] + back, 0, shown[2] + back, shown[0]],
    ];
  }

  // Numbers of every voxel as numbers of every pixel; 0 where there is no plane.
  flat(values, channels = 1) {
    if (!this.volume) return values;
    const picture = new values.constructor(this.voxels.length * channels);
    this.voxels.forEach((voxel, pixel) => {
      if (voxel >= 0) for (let c = 0; c < channels; c++) picture[pixel * channels + c] = values[voxel * channels + c];
    });
    return picture;
  }

  // The voxel in the middle of where bits are set, if any are.
  middleOf(...masks) {
    const [depth, height, width] = this.volume.size;
    const sums = [0, 0, 0];
    let count = 0;
    for (let i = 0; i < depth * height * width; i++) {
      if (!masks.some((mask) => mask[i])) continue;
      count += 1;
      [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width].forEach((k, axis) => {
        sums[axis] += k;
      });
    }
    return count ? sums.map((sum) => Math.round(sum / count)) : null;
  }
}

// Bits, eight in a byte, the first one the highest: Uint8Array of so many 0 and 1.
export function unpack(bytes, count) {
  const bits = new Uint8Array(count);
  for (let i = 0; i < count; i++) bits[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return bits;
}

// The path between pixels that are in a mask and their neighbours that are not.
export function traceEdges(context, mask, [rows, columns], [across, down]) {
  context.beginPath();
  const line = (x0, y0, x1, y1) => {
    context.moveTo(x0 * across, y0 * down);
    context.lineTo(x1 * across, y1 * down);
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const i = row * columns + column;
      if (column && mask[i] !== mask[i - 1]) line(column, row, column, row + 1);
      if (row && mask[i] !== mask[i - columns]) line(column, row, column + 1, row);
    }
  }
}
