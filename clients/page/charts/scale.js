// Colours of effects and probabilities.

/** The server's own table (src/draw/scale.rs; a test compares them), and one for dark grounds, whose zero is near the ground. */
export const LIGHT = {
  negative: ['#f6f6f6', '#c5e1f4', '#97cbf1', '#6db3ea', '#499ade', '#2d81cb', '#1c68b3', '#155195', '#153b73'],
  positive: ['#f6f6f6', '#f9d4c2', '#f8b193', '#f08e6b', '#e26c4a', '#ce4d31', '#b33223', '#941e1c', '#711319'],
};
export const DARK = {
  negative: ['#26272b', '#22394f', '#1f4b72', '#1f5f96', '#2a76b8', '#4390d4', '#67abe6', '#92c7f3', '#c5e3fb'],
  positive: ['#26272b', '#4a2c25', '#6f3526', '#953f29', '#b95032', '#d46a49', '#e58b6c', '#f1b097', '#fad7c8'],
};
export const MISSING = [150, 150, 150];
/** Colours on each side of zero. */
export const STEPS = 255;

const bytes = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
const tables = new Map();

/** The colours of -1 to 1 as bytes, three each. */
export function diverging(dark) {
  if (tables.has(dark)) return tables.get(dark);
  const { negative, positive } = dark ? DARK : LIGHT;
  const sides = [negative.map(bytes), positive.map(bytes)];
  const out = new Uint8ClampedArray((2 * STEPS + 1) * 3);
  for (let i = 0; i <= 2 * STEPS; i++) {
    const value = (i - STEPS) / STEPS;
    const side = sides[value < 0 ? 0 : 1];
    const at = Math.abs(value) * 8;
    const below = Math.min(7, Math.floor(at));
    for (let c = 0; c < 3; c++) out[i * 3 + c] = Math.round(side[below][c] + (at - below) * (side[below + 1][c] - side[below][c]));
  }
  tables.set(dark, out);
  return out;
}

const words = new Map();

/** The diverging table as pixels of an image, and one more for what has no value. */
export function pixels(dark) {
  if (words.has(dark)) return words.get(dark);
  const table = [...diverging(dark), ...MISSING];
  const out = new Uint32Array(table.length / 3);
  const bytes = new Uint8ClampedArray(out.buffer);
  for (let i = 0; i < out.length; i++) bytes.set([...table.slice(i * 3, i * 3 + 3), 255], i * 4);
  words.set(dark, out);
  return out;
}

/** Where in the table the colour of a value stands, on a scale that ends at `max`. */
export function place(value, max) {
  if (value === null || value === undefined || Number.isNaN(value)) return 2 * STEPS + 1;
  return Math.round(Math.max(-1, Math.min(1, value / max)) * STEPS) + STEPS;
}

/** The colour of a share from 0 to 1: one hue, the ground at 0. */
export function share(value, dark) {
  const [from, to] = dark ? [[38, 39, 43], [42, 118, 184]] : [[246, 246, 246], [73, 154, 222]];
  const part = Math.max(0, Math.min(1, value ?? 0));
  return from.map((low, c) => Math.round(low + part * (to[c] - low)));
}

export const rgb = ([r, g, b]) => `rgb(${r},${g},${b})`;
