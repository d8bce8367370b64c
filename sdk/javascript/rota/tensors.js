// Arrays that travel beside a payload: those of the messages, and those that a task makes.

import { show } from "./console.js";
import { tensorNew, tensorRead } from "./host.js";
import { bytesOf } from "./text.js";

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
const OTHER_BYTES = { bfloat16: 2, complex64: 8, complex128: 16 }; // per element; one for what is not here (float8)
const NEW_ERRORS = { "-22": "dtype, shape and number of bytes do not fit", "-28": "more tensors or bytes than a task may make" };
const READ_ERRORS = { "-9": "there is no such tensor", "-22": "the offset is behind its end", "-5": "this host cannot read it" };

let step = 0; // of a flow; the host forgets what a step has made

/** Begin another step of a flow. */
export function nextStep() {
  step++;
}

/** An array that travels beside the payload. `data`: its bytes, if they are here. */
class Tensor {
  #data;
  #step = step;
  #index;
  constructor(index, digest, dtype, shape, data) {
    this.#index = index;
    this.digest = digest;
    this.dtype = dtype;
    this.shape = shape;
    this.#data = data;
    Object.freeze(this);
  }

  /** Its place among the tensors of the task. Data that are here become a tensor of the step that needs one. */
  get index() {
    if (this.#data !== undefined && (this.#index === undefined || this.#step !== step)) {
      this.#index = made(this.dtype, this.shape, this.#data);
      this.#step = step;
    }
    return this.#index;
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
    const found = tensorRead(BigInt(this.#index), BigInt(offset), BigInt(Math.min(size, left)));
    if (typeof found === "bigint") throw new RangeError(`tensor ${this.#index}: ${READ_ERRORS[found] ?? `error ${found}`}`);
    return new Uint8Array(found);
  }

  /** All elements, as the typed array of the dtype; bytes for a dtype that JavaScript lacks. */
  array() {
    const bytes = this.read();
    const Elements = ARRAYS[this.dtype] ?? Uint8Array;
    return new Elements(bytes.buffer, bytes.byteOffset, bytes.byteLength / Elements.BYTES_PER_ELEMENT);
  }
}

/** Return the tensors of a message; `described`: [digest, dtype, shape] of each, the first of them with index `first`. */
export function messageTensors(described, first) {
  return described.map(([digest, dtype, shape], place) => new Tensor(first + place, digest, dtype, shape));
}

/** Return a tensor whose bytes came in a payload. */
export function inlineTensor(dtype, shape, data) {
  return new Tensor(undefined, undefined, dtype, shape, data);
}

/** Return the bytes of data: a typed array, a buffer, or an array of numbers. */
export function bytesOfElements(dtype, data) {
  const Elements = ARRAYS[dtype];
  const isNumbers = Array.isArray(data) && Elements;
  const bytes = bytesOf(isNumbers ? Elements.from(data, Elements.name.startsWith("Big") ? BigInt : Number) : data);
  if (bytes !== undefined) return bytes;
  throw new TypeError(`tensor: the data are ${show(data)}, not a typed array${Elements ? " or an array of numbers" : ""}`);
}

/** Return a tensor of data, as `bytesOfElements` takes them. */
export function newTensor(dtype, shape, data) {
  const bytes = bytesOfElements(dtype, data);
  return new Tensor(made(dtype, shape, bytes), undefined, dtype, [...shape], bytes.slice());
}

/** Make a tensor of the host and return its index. */
function made(dtype, shape, bytes) {
  const index = Number(tensorNew(String(dtype), BigInt64Array.from(shape, BigInt), bytes));
  if (index >= 0) return index;
  const what = `${dtype} of shape [${shape}] and ${bytes.length} bytes`;
  throw new RangeError(`tensor: ${what}: ${NEW_ERRORS[index] ?? `error ${index}`}`);
}

export function isTensor(value) {
  return value instanceof Tensor;
}

/** Return the index of a tensor, or of one that is given by its index. */
export function indexOf(tensor) {
  const index = tensor instanceof Tensor ? tensor.index : tensor;
  if (!Number.isSafeInteger(index)) throw new TypeError(`${show(tensor)} is no tensor`);
  return index || 0;
}
