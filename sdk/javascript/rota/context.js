// What a handler gets: the message, the state and the verbs. docs/SDK.md describes them for authors.
//
// An instance runs one task and is dropped, so the task is in variables of this module, and the context itself is made
// once, with the image.

import { show } from "./console.js";
import { equal, log, tensorNew, tensorRead } from "./host.js";
import { pack, packParts, unpack } from "./messagepack.js";
import { bytesOf, textOf, utf8 } from "./text.js";

const ARRAYS = {
  bool: Uint8Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Float16Array,
  float32: Float32Array,
  float64: Float64Array,
};
const BYTES_MAX = 2 ** 24; // of all that a task returns
const OTHER_BYTES = { bfloat16: 2, complex64: 8, complex128: 16 }; // per element; one for what is not here (float8)
const NEW_ERRORS = { "-22": "dtype, shape and number of bytes do not fit", "-28": "more tensors or bytes than a task may make" };
const READ_ERRORS = { "-9": "there is no such tensor", "-22": "the offset is behind its end", "-5": "this host cannot read it" };

let header;
let payload;
let before = null;
let entropy;
let tensors;
let state;
let stateUsed = false;
let failure;
let result = null;
let resultTensors = [];
const emits = [];

/** Take over a task. `fields`: [kind, sender, turn, now_ms, reply_to, tensors, address]; `bytes` null: no state yet. */
export function open(fields, sent, bytes, chance) {
  header = fields;
  payload = sent;
  before = bytes;
  entropy = chance;
}

/** End the task as failed, unless it has failed before. */
export function failTask(code, message) {
  failure ??= [code, message];
}

export function hasFailed() {
  return failure !== undefined;
}

/**
 * Return the output. Of most tasks this is [state, result], each bytes or undefined; else two times undefined, and behind
 * them the array of docs/AGENTS.md as MessagePack, in parts.
 */
export function close() {
  if (failure) return packParts([1, 1, failure[0] || "Error", failure[1], []]);
  const after = stateAfter();
  if (!emits.length && !resultTensors.length) return [after ?? undefined, result ?? undefined];
  const fields = [1, 0, after, result, emits, []];
  if (resultTensors.length) fields[6] = resultTensors;
  return packParts(fields);
}

function stateAfter() {
  if (!stateUsed || (before === null && (state === undefined || state === null))) return null;
  const after = pack(state);
  return before !== null && before.length === after.length && equal(before, after) ? null : after;
}

/** Ends the handler after `ctx.fail`. */
export class Failure extends Error {}

/** An array that travels beside the payload. */
class Tensor {
  #data;
  constructor(index, digest, dtype, shape, data) {
    this.index = index;
    this.digest = digest;
    this.dtype = dtype;
    this.shape = shape;
    this.#data = data;
    Object.freeze(this);
  }

  /** The number of elements. */
  get length() {
    return this.shape.reduce((product, count) => product * count, 1);
  }

  /** Up to `size` bytes of the data from byte `offset` on. */
  read(offset = 0, size = Number.MAX_SAFE_INTEGER) {
    if (this.#data !== undefined) return this.#data.slice(offset, offset + size);
    const width = ARRAYS[this.dtype]?.BYTES_PER_ELEMENT ?? OTHER_BYTES[this.dtype] ?? 1;
    const left = Math.max(0, this.length * width - offset);
    const found = tensorRead(BigInt(this.index), BigInt(offset), BigInt(Math.min(size, left)));
    if (typeof found === "bigint") throw new RangeError(`tensor ${this.index}: ${READ_ERRORS[found] ?? `error ${found}`}`);
    return new Uint8Array(found);
  }

  /** All elements, as the typed array of the dtype; bytes for a dtype that JavaScript lacks. */
  array() {
    const bytes = this.read();
    const Elements = ARRAYS[this.dtype] ?? Uint8Array;
    return new Elements(bytes.buffer, bytes.byteOffset, bytes.byteLength / Elements.BYTES_PER_ELEMENT);
  }
}

function indexOf(tensor) {
  const index = tensor instanceof Tensor ? tensor.index : tensor;
  if (!Number.isSafeInteger(index)) throw new TypeError(`${show(tensor)} is no tensor`);
  return index || 0;
}

/** Return a payload's bytes: bytes as they are, a text as UTF-8, any other value as MessagePack. */
function payloadOf(value) {
  if (typeof value === "string") {
    if (value.length > BYTES_MAX) throw new RangeError(`a text of ${value.length} characters: at most ${BYTES_MAX} bytes can be sent`);
    return utf8(value);
  }
  return (typeof value === "object" && value !== null ? bytesOf(value) : undefined) ?? pack(value);
}

function add(target, value, kind, { priority = 0, tensors: sent = [] } = {}, delay_ms = undefined) {
  if (typeof target !== "string") throw new TypeError(`${kind}: the target is ${show(target)}, not a text`);
  if (!Number.isSafeInteger(priority)) throw new TypeError(`${kind}: the priority is ${show(priority)}, not an integer`);
  const emit = [target, payloadOf(value), priority || 0, kind, Array.from(sent, indexOf)];
  if (delay_ms !== undefined) emit[5] = delay_ms || 0; // and so no -0, which is a float
  return emits.push(emit) - 1;
}

function newTensor(dtype, shape, data) {
  const Elements = ARRAYS[dtype];
  const bytes = bytesOf(Array.isArray(data) && Elements ? Elements.from(data) : data);
  if (bytes === undefined) {
    throw new TypeError(`tensor: the data are ${show(data)}, not a typed array${Elements ? " or an array of numbers" : ""}`);
  }
  const index = Number(tensorNew(String(dtype), BigInt64Array.from(shape, BigInt), bytes));
  if (index < 0) {
    const what = `${dtype} of shape [${shape}] and ${bytes.length} bytes`;
    throw new RangeError(`tensor: ${what}: ${NEW_ERRORS[index] ?? `error ${index}`}`);
  }
  return new Tensor(index, undefined, dtype, [...shape], bytes.slice());
}

const message = Object.freeze({
  get kind() {
    return header[0];
  },
  get sender() {
    return header[1];
  },
  get turn() {
    return header[2];
  },
  get now_ms() {
    return header[3];
  },
  get reply_to() {
    return header[4] && { turn: header[4][0], asked_in: header[4][1], emit: header[4][2] };
  },
  get tensors() {
    tensors ??= header[5].map(([digest, dtype, shape], index) => new Tensor(index, digest, dtype, shape));
    return tensors;
  },
  get address() {
    return header[6];
  },
  get entropy() {
    return entropy;
  },
  get payload() {
    return payload;
  },
  get text() {
    return textOf(payload, true);
  },
  get value() {
    return unpack(payload);
  },
});

export const context = Object.freeze({
  message,
  get state() {
    if (!stateUsed) {
      state = before === null ? null : unpack(before);
      stateUsed = true;
    }
    return state;
  },
  set state(value) {
    stateUsed = true;
    state = value;
  },
  emit: (target, value, options) => add(target, value, "tell", options),
  ask: (target, value, options) => add(target, value, "ask", options),
  timer: (delay_ms, value = "", options = {}) => {
    if (!Number.isSafeInteger(delay_ms)) throw new TypeError(`timer: ${show(delay_ms)} is no number of milliseconds`);
    return add(header[6], value, "timer", options, delay_ms);
  },
  reply: (value, options) => {
    result = payloadOf(value);
    resultTensors = options?.tensors ? Array.from(options.tensors, indexOf) : [];
  },
  fail: (code, text = "") => {
    failTask(String(code), show(text));
    throw new Failure(`${code}: ${show(text)}`);
  },
  log: (...values) => log(values.map(show).join(" ")),
  tensor: newTensor,
});
