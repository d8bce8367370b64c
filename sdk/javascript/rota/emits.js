// The messages that a task sends.

import { show } from "./console.js";
import { pack } from "./messagepack.js";
import { indexOf } from "./tensors.js";
import { bytesOf, utf8 } from "./text.js";

const BYTES_MAX = 2 ** 24; // of all that a task returns

/** What a worker takes, as common/targets.py has it. */
const isTarget =
  /^(?:\w[\w.-]{0,63}(?:\/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200})?|model:\w[\w.-]{0,63}(?:@[1-9][0-9]{0,8})?)$/u;

/** Those of this task, or of this step of a flow, as in docs/AGENTS.md. */
export const emits = [];

/** Return a payload's bytes: bytes as they are, a text as UTF-8, any other value as MessagePack. */
export function payloadOf(value) {
  if (value === undefined) {
    throw new TypeError(
      "undefined cannot be sent: give '' for nothing. (The answer to an ask comes to an agent as a later message; a function " +
        "called flow can await it.)",
    );
  }
  if (typeof value === "string") {
    if (value.length > BYTES_MAX) throw new RangeError(`a text of ${value.length} characters: at most ${BYTES_MAX} bytes can be sent`);
    return utf8(value);
  }
  return (typeof value === "object" && value !== null ? bytesOf(value) : undefined) ?? pack(value);
}

/** Return an integer; no -0, which would be written as a float. */
export function integer(value, what) {
  if (!Number.isSafeInteger(value)) throw new TypeError(`${what} is ${show(value)}, not an integer`);
  return value || 0;
}

/** Add a message and return its place. `delay_ms`: of a timer, or until the deadline of an ask; `answers`: a turn, or 0. */
export function add(target, value, kind, options, delay_ms = 0, answers = 0) {
  if (typeof target !== "string") throw new TypeError(`${kind}: the target is ${show(target)}, not a text`);
  if (!isTarget.test(target)) {
    throw new TypeError(
      `${kind}: ${show(target)} is no target: use name/key, name or model:NAME (a name has letters, digits, _ . and -)`,
    );
  }
  const priority = options?.priority === undefined ? 0 : integer(options.priority, `${kind}: the priority`);
  const tensors = options?.tensors === undefined ? [] : Array.from(options.tensors, indexOf);
  const emit = [target, payloadOf(value), priority, kind, tensors];
  if (kind === "timer" || delay_ms !== 0 || answers !== 0) emit[5] = integer(delay_ms, `${kind}: the time`);
  if (answers !== 0) emit[6] = answers;
  return emits.push(emit) - 1;
}
