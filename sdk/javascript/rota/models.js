// What models are asked, and what they answer: the payloads of docs/PROTOCOL.md (text tasks) and docs/MODELS.md.

import { show } from "./console.js";
import { bytesOfElements, inlineTensor, isTensor } from "./tensors.js";

const PREFIX = "model:";
const INLINE_BYTES_MAX = 1 << 16; // larger arrays travel beside the payload
const SENDING = ["priority", "deadline_ms"]; // options of the ask, not of the call

/** Return the target of a model that is given by its name, or as target. */
export function modelTarget(model) {
  if (typeof model !== "string") throw new TypeError(`the model is ${show(model)}, not a text`);
  return model.startsWith(PREFIX) ? model : PREFIX + model;
}

/** Return options as fields of a call. */
function fieldsOf(options) {
  return Object.fromEntries(Object.entries(options ?? {}).filter(([name]) => !SENDING.includes(name)));
}

export function generateCall(options) {
  if (typeof options !== "object" || options === null) throw new TypeError("generate: give { prompt: ... } or { messages: [...] }");
  return [{ generate: fieldsOf(options) }];
}

/** Return the call of a model that takes texts: `task` is embed or classify. */
export function textsCall(task, texts, options) {
  return [{ [task]: { texts: typeof texts === "string" ? [texts] : [...texts], ...fieldsOf(options) } }];
}

/** Return the call of a model that takes arrays: tensors, or { dtype, shape, data }. */
export function modelCall(inputs, options) {
  const sent = [];
  const described = ([name, given]) => {
    const { dtype, shape, data } = given;
    if (isTensor(given)) return [name, [dtype, [...shape], sent.push(given) - 1]];
    const bytes = bytesOfElements(dtype, data);
    if (bytes.length <= INLINE_BYTES_MAX) return [name, [dtype, [...shape], bytes]];
    return [name, [dtype, [...shape], sent.push(inlineTensor(dtype, [...shape], bytes)) - 1]];
  };
  return [{ inputs: Object.fromEntries(Object.entries(inputs).map(described)), ...fieldsOf(options) }, sent];
}

function tensorOf([dtype, shape, data], tensors) {
  return typeof data === "number" ? tensors[data] : inlineTensor(dtype, shape, data);
}

/** Return the outputs of a model by name. */
export function outputsOf(answer) {
  const tensors = answer.tensors;
  const one = ([name, described]) => [name, tensorOf(described, tensors)];
  return Object.fromEntries(Object.entries(answer.value.outputs).map(one));
}

/** Return the vectors of an embedding, one array of numbers for each text. */
export function vectorsOf(answer) {
  const vectors = tensorOf(answer.value.embed.vectors, answer.tensors);
  const [count, width] = vectors.shape;
  const all = vectors.array();
  return Array.from({ length: count }, (_, row) => all.subarray(row * width, (row + 1) * width));
}
