// MessagePack: the values of agents as bytes, and back. docs/SDK.md says which JavaScript value becomes which.
//
// Written for few operations, since each costs about a hundred units of fuel: one buffer for all values, and the host
// (`packPlain`, `unpackPlain`) for values that JSON has too.

import { packPlain, unpackPlain } from "./host.js";
import { bytesOf, textOf, utf8 } from "./text.js";

const INTEGER_MAX = 2 ** 53;
const COPIED_MAX = 4096; // longer bytes are a part of their own
const HERE_MAX = 12; // bytes; from about this length on a call of the host is faster

// --- Writing: values go behind each other into one buffer, also if a toJSON packs something itself.

let out = new Uint8Array(4096);
let outView = new DataView(out.buffer);
let size = 0;
let parts; // what `inParts` has so far; its next part begins at `begun`
let begun;

/** Make room for `more` bytes and return their place. */
function room(more) {
  const place = size;
  size += more;
  if (size > out.length) {
    const larger = new Uint8Array(Math.max(size, 2 * out.length));
    larger.set(out.subarray(0, place));
    out = larger;
    outView = new DataView(larger.buffer);
  }
  return place;
}

function byte(value) {
  if (size === out.length) room(1);
  else size++;
  out[size - 1] = value;
}

function u16(head, value) {
  const place = room(3);
  out[place] = head;
  outView.setUint16(place + 1, value);
}

function u32(head, value) {
  const place = room(5);
  out[place] = head;
  outView.setUint32(place + 1, value);
}

function wide(head, value) {
  const place = room(9);
  out[place] = head;
  if (head === 0xcf) outView.setBigUint64(place + 1, value);
  else outView.setBigInt64(place + 1, value);
}

/** Write a count behind the first of its heads: of 8 bits, or of 16 if `from16`. */
function sized(head, count, from16) {
  if (!from16 && count < 0x100) {
    byte(head);
    byte(count);
  } else if (count < 0x10000) {
    u16(from16 ? head : head + 1, count);
  } else {
    u32(from16 ? head + 1 : head + 2, count);
  }
}

function raw(bytes) {
  const place = room(bytes.length); // before `out` is read, since it may be another one then
  out.set(bytes, place);
}

function writeInteger(value) {
  if (value >= 0) {
    if (value < 0x80) byte(value);
    else if (value < 0x100000000) sized(0xcc, value, false);
    else wide(0xcf, BigInt(value));
  } else if (value >= -32) {
    byte(value & 0xff);
  } else if (value >= -0x80) {
    byte(0xd0);
    byte(value & 0xff);
  } else if (value >= -0x8000) {
    u16(0xd1, value & 0xffff);
  } else if (value >= -0x80000000) {
    u32(0xd2, value >>> 0);
  } else {
    wide(0xd3, BigInt(value));
  }
}

function writeBigInt(value) {
  if (value >= -BigInt(INTEGER_MAX) && value <= BigInt(INTEGER_MAX)) writeInteger(Number(value));
  else if (value > 0n && value < 1n << 64n) wide(0xcf, value);
  else if (value < 0n && value >= -(1n << 63n)) wide(0xd3, value);
  else throw new RangeError("a BigInt that needs more than 64 bits cannot be stored or sent");
}

function writeNumber(value) {
  if (Number.isInteger(value) && value <= INTEGER_MAX && value >= -INTEGER_MAX && !Object.is(value, -0)) {
    writeInteger(value);
  } else {
    const place = room(9);
    out[place] = 0xcb;
    outView.setFloat64(place + 1, value);
  }
}

function writeText(value) {
  const bytes = utf8(value);
  const length = bytes.length;
  if (length < 32) byte(0xa0 | length);
  else sized(0xd9, length, false);
  raw(bytes);
}

function writeBytes(bytes) {
  sized(0xc4, bytes.length, false);
  if (parts !== undefined && bytes.length > COPIED_MAX) {
    parts[parts.length] = out.slice(begun, size);
    parts[parts.length] = bytes;
    begun = size;
  } else {
    raw(bytes);
  }
}

function writeArray(length) {
  if (length < 16) byte(0x90 | length);
  else sized(0xdc, length, true);
}

function writeMap(length) {
  if (length < 16) byte(0x80 | length);
  else sized(0xde, length, true);
}

function write(value, key) {
  switch (typeof value) {
    case "number":
      return writeNumber(value);
    case "string":
      return writeText(value);
    case "boolean":
      return byte(value ? 0xc3 : 0xc2);
    case "undefined":
      return byte(0xc0);
    case "bigint":
      return writeBigInt(value);
    case "object":
      return value === null ? byte(0xc0) : writeObject(value, key);
    default:
      throw new TypeError(`a ${typeof value}${key === undefined ? "" : ` (${String(key)})`} cannot be stored or sent`);
  }
}

function writeObject(value, key) {
  if (Array.isArray(value)) {
    writeArray(value.length);
    for (let index = 0; index < value.length; index++) write(value[index], index);
    return;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype === Object.prototype && value.toJSON === undefined) return writeFields(value);
  const bytes = bytesOf(value);
  if (bytes !== undefined) return writeBytes(bytes);
  if (value instanceof Map) {
    writeMap(value.size);
    for (const [name, item] of value) {
      write(name);
      write(item, name);
    }
  } else if (value instanceof Set) {
    writeArray(value.size);
    for (const item of value) write(item);
  } else if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    write(value.valueOf());
  } else if (value instanceof Promise) {
    throw new TypeError("a promise cannot be stored or sent: await it");
  } else if (typeof value.toJSON === "function") {
    write(value.toJSON(key ?? ""), key);
  } else {
    writeFields(value);
  }
}

function writeFields(value) {
  let names = Object.keys(value);
  if (names.some((name) => value[name] === undefined)) names = names.filter((name) => value[name] !== undefined);
  writeMap(names.length);
  for (const name of names) {
    writeText(name);
    write(value[name], name);
  }
}

const notPlain = new Error("JSON does not say all of this");

/** Passes a value on to JSON.stringify; throws `notPlain` where JSON would say something else than MessagePack. */
function checkPlain(key, value) {
  switch (typeof value) {
    case "string":
    case "boolean":
    case "undefined":
      return value;
    case "number":
      if (value <= INTEGER_MAX && value >= -INTEGER_MAX && (value !== 0 || Object.is(value, 0))) return value;
      throw notPlain;
    case "object":
      if (value === null || Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) return value;
      throw notPlain;
    default:
      throw notPlain;
  }
}

/** Return the MessagePack of an object by way of JSON, or undefined. */
function packByJson(value) {
  let text;
  try {
    text = JSON.stringify(value, checkPlain);
  } catch (error) {
    if (error === notPlain) return undefined;
    throw error;
  }
  const packed = text === undefined ? undefined : packPlain(text);
  return packed === undefined ? undefined : new Uint8Array(packed);
}

/** Return a value as MessagePack. */
export function pack(value) {
  if (typeof value === "object" && value !== null) {
    const packed = packByJson(value);
    if (packed !== undefined) return packed;
  }
  const start = size;
  try {
    write(value);
    return out.slice(start, size);
  } finally {
    size = start;
  }
}

const KINDS = Object.fromEntries(["tell", "ask", "timer", "reply", "failure"].map((kind) => [kind, pack(kind)]));

function writeIntegers(values) {
  writeArray(values.length);
  for (let index = 0; index < values.length; index++) writeInteger(values[index]);
}

function writeEmit(emit) {
  writeArray(emit.length);
  writeText(emit[0]);
  writeBytes(emit[1]);
  writeInteger(emit[2]);
  raw(KINDS[emit[3]]);
  writeIntegers(emit[4]);
  if (emit.length > 5) writeInteger(emit[5]);
  if (emit.length > 6) writeInteger(emit[6]);
}

/** Write what `call` writes, in parts from index 2 on: long bytes in it are not copied. Nothing of it may pack something. */
function inParts(call) {
  const found = (parts = [undefined, undefined]);
  begun = size;
  try {
    call();
  } finally {
    parts = undefined;
  }
  found[found.length] = out.slice(begun, size);
  return found;
}

/** Return the output of a failed task (docs/AGENTS.md), in parts. */
export function packFailure(code, message) {
  return inParts(() => write([1, 1, code, message, []]));
}

/**
 * Return the output of a task that is done (docs/AGENTS.md), in parts. `state` and `result`: bytes or null; `waits`: a text
 * if it goes on. Without `write`, which costs several times as much: it finds out what a value is.
 */
export function packDone(state, result, emits, tensors, waits) {
  return inParts(() => {
    const fields = waits !== undefined ? 8 : tensors.length ? 7 : 6;
    byte(0x90 | fields);
    byte(1);
    byte(0);
    if (state === null) byte(0xc0);
    else writeBytes(state);
    if (result === null) byte(0xc0);
    else writeBytes(result);
    writeArray(emits.length);
    for (let index = 0; index < emits.length; index++) writeEmit(emits[index]);
    byte(0x90); // lines of the log were written when they came
    if (fields > 6) writeIntegers(tensors);
    if (fields > 7) writeText(waits);
  });
}

// --- Reading.

let bytes;
let view;
let place = 0;

function take(count) {
  const start = place;
  if (count > bytes.length - start) throw new RangeError("the MessagePack value ends too early");
  place = start + count;
  return start;
}

function look() {
  view ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view;
}

const readU8 = () => bytes[take(1)];
const readU16 = () => look().getUint16(take(2));
const readU32 = () => look().getUint32(take(4));

function readBytes(count) {
  const start = take(count);
  return bytes.subarray(start, start + count);
}

function readArray(length) {
  if (length > bytes.length - place) throw new RangeError("the MessagePack value ends too early");
  const items = [];
  for (let index = 0; index < length; index++) items.push(readValue());
  return items;
}

function readMap(length) {
  if (length > bytes.length - place) throw new RangeError("the MessagePack value ends too early");
  const entries = [];
  let texts = true;
  for (let index = 0; index < length; index++) {
    const key = readValue();
    texts &&= typeof key === "string";
    entries.push([key, readValue()]);
  }
  // fromEntries defines properties, so a key `__proto__` is one like any other.
  return texts ? Object.fromEntries(entries) : new Map(entries);
}

function narrow(value) {
  return value >= -BigInt(INTEGER_MAX) && value <= BigInt(INTEGER_MAX) ? Number(value) : value;
}

function readValue() {
  const head = readU8();
  if (head < 0x80) return head;
  if (head < 0x90) return readMap(head & 0x0f);
  if (head < 0xa0) return readArray(head & 0x0f);
  if (head < 0xc0) return textOf(readBytes(head & 0x1f));
  if (head >= 0xe0) return head - 0x100;
  switch (head) {
    case 0xc0:
      return null;
    case 0xc2:
      return false;
    case 0xc3:
      return true;
    case 0xc4:
      return readBytes(readU8());
    case 0xc5:
      return readBytes(readU16());
    case 0xc6:
      return readBytes(readU32());
    case 0xca:
      return look().getFloat32(take(4));
    case 0xcb:
      return look().getFloat64(take(8));
    case 0xcc:
      return readU8();
    case 0xcd:
      return readU16();
    case 0xce:
      return readU32();
    case 0xcf:
      return narrow(look().getBigUint64(take(8)));
    case 0xd0:
      return look().getInt8(take(1));
    case 0xd1:
      return look().getInt16(take(2));
    case 0xd2:
      return look().getInt32(take(4));
    case 0xd3:
      return narrow(look().getBigInt64(take(8)));
    case 0xd9:
      return textOf(readBytes(readU8()));
    case 0xda:
      return textOf(readBytes(readU16()));
    case 0xdb:
      return textOf(readBytes(readU32()));
    case 0xdc:
      return readArray(readU16());
    case 0xdd:
      return readArray(readU32());
    case 0xde:
      return readMap(readU16());
    case 0xdf:
      return readMap(readU32());
    default:
      throw new RangeError(`a MessagePack value of type 0x${head.toString(16)}, which has no JavaScript value`);
  }
}

/** Return the value of MessagePack bytes. Throws a RangeError if they are not one value. */
export function unpack(data) {
  if (data.length > HERE_MAX) {
    const plain = unpackPlain(data);
    if (plain !== undefined) return JSON.parse(plain);
  }
  bytes = data;
  view = undefined;
  place = 0;
  const value = readValue();
  if (place !== bytes.length) throw new RangeError(`${bytes.length - place} bytes follow the MessagePack value`);
  return value;
}
