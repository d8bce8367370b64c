// Chance: one stream from the entropy of the task, in place of the engine's own, which an image would freeze.

let entropy = new Uint8Array(32);
let seeded = false;
let a = 0;
let b = 0;
let c = 0;
let count = 1;

/** Begin the stream of a task; `bytes`: its 32 bytes of entropy. */
export function seed(bytes) {
  entropy = bytes;
  seeded = false;
}

function begin() {
  const view = new DataView(entropy.buffer, entropy.byteOffset, 32);
  a = view.getInt32(0, true) ^ view.getInt32(12, true);
  b = view.getInt32(4, true) ^ view.getInt32(16, true);
  c = view.getInt32(8, true) ^ view.getInt32(20, true);
  count = 1;
  seeded = true;
  for (let turn = 0; turn < 12; turn++) next();
}

/** Chris Doty-Humphrey's sfc32: 32 bits, from `a`, `b`, `c` and a counter. */
function next() {
  const sum = (a + b + count) | 0;
  count = (count + 1) | 0;
  a = b ^ (b >>> 9);
  b = (c + (c << 3)) | 0;
  c = (((c << 21) | (c >>> 11)) + sum) | 0;
  return sum;
}

function random() {
  if (!seeded) begin();
  return ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 0x20000000000000;
}

function getRandomValues(array) {
  if (!ArrayBuffer.isView(array) || array instanceof DataView || /Float/.test(array.constructor.name)) {
    throw new TypeError("getRandomValues takes an array of integers");
  }
  if (array.byteLength > 65536) throw new RangeError(`getRandomValues fills at most 65536 bytes, not ${array.byteLength}`);
  if (!seeded) begin();
  const view = new DataView(array.buffer, array.byteOffset, array.byteLength);
  let place = 0;
  for (; place + 4 <= array.byteLength; place += 4) view.setInt32(place, next(), true);
  for (const word = next(); place < array.byteLength; place++) view.setUint8(place, word >>> (8 * (place & 3)));
  return array;
}

function randomUUID() {
  const bytes = getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = bytes.toHex();
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

Math.random = random;
export const crypto = { getRandomValues, randomUUID };
