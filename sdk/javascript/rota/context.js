// What a handler gets: the message, the state and the verbs. docs/SDK.md describes them for authors.
//
// An instance runs one task and is dropped, or one call of a flow (flow.js), whose first message this is. So the task is
// in variables of this module, and the context itself is made once, with the image.

import { show } from "./console.js";
import { add, emits, integer, payloadOf } from "./emits.js";
import { Failure } from "./failures.js";
import { equal, log } from "./host.js";
import { pack, packDone, packFailure, unpack } from "./messagepack.js";
import { indexOf, messageTensors, newTensor } from "./tensors.js";
import { textOf } from "./text.js";

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
let postponed = false;

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
  if (failure) return packFailure(failure[0] || "Error", failure[1]);
  if (postponed && result !== null) {
    throw new TypeError("the task is postponed, so it has no result: ctx.settle(turn, ...) gives it later");
  }
  const after = stateAfter();
  if (postponed) return packDone(after, null, emits, [], "");
  if (!emits.length && !resultTensors.length) return [after ?? undefined, result ?? undefined];
  return packDone(after, result, emits, resultTensors.map(indexOf), undefined);
}

/** Return the output of a step after which a call of a flow goes on; `waits`: where it waits. */
export function closeStep(waits) {
  return failure ? close() : packDone(null, null, emits, [], waits);
}

function stateAfter() {
  if (!stateUsed || (before === null && (state === undefined || state === null))) return null;
  const after = pack(state);
  return before !== null && before.length === after.length && equal(before, after) ? null : after;
}

/** Return what reads a payload, and says where else it may be found. */
function reading(read, instead) {
  return (bytes) => {
    try {
      return read(bytes);
    } catch (error) {
      error.message += `; ${instead}`;
      throw error;
    }
  };
}

/** A payload as text; as a value. */
export const readText = reading((bytes) => textOf(bytes, true), "what was sent as another value than text or bytes is in .value");
export const readValue = reading(unpack, "what was sent as text is in .text, as bytes in .payload");

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
    tensors ??= messageTensors(header[5], 0);
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
    return readText(payload);
  },
  get value() {
    return readValue(payload);
  },
});

/** The verbs that agents and flows have. */
export const verbs = {
  message,
  emit: (target, value, options) => add(target, value, "tell", options),
  reply: (value, options) => {
    const bytes = payloadOf(value);
    resultTensors = [];
    if (options?.tensors) {
      resultTensors = [...options.tensors];
      resultTensors.forEach(indexOf);
    }
    result = bytes;
  },
  fail: (code, text = "") => {
    failTask(String(code), show(text));
    throw new Failure(`${code}: ${show(text)}`);
  },
  log: (...values) => log(values.map(show).join(" ")),
  tensor: newTensor,
};

/** Send what settles a turn that this agent has postponed. */
function settle(kind, turn, value, options) {
  add(header[6], value, kind, options, 0, integer(turn, `${kind === "reply" ? "settle" : "settleFailure"}: the turn`));
}

export const context = Object.freeze({
  ...verbs,
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
  ask: (target, value, options) => add(target, value, "ask", options, options?.deadline_ms),
  timer: (delay_ms, value = "", options = undefined) => {
    if (!Number.isSafeInteger(delay_ms)) throw new TypeError(`timer: ${show(delay_ms)} is no number of milliseconds`);
    return add(header[6], value, "timer", options, delay_ms);
  },
  postpone: () => {
    postponed = true;
    return header[2];
  },
  settle: (turn, value, options) => settle("reply", turn, value, { tensors: options?.tensors }),
  settleFailure: (turn, code, text = "") => settle("failure", turn, [String(code), show(text)]),
  handOn: (target, value, options) => {
    const turn = integer(options?.turn ?? header[2], "handOn: the turn");
    if (turn === header[2]) postponed = true;
    add(target, value, "ask", options, options?.deadline_ms, turn);
  },
});
