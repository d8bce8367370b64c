// What is seen to at the end of a task: rejected promises that nobody waits for, and what was asked to be done then.

const rejected = new Map();
let last;

/** Note a promise that was rejected while nobody waits for it, or that somebody waits for it now. */
export function noteRejection(promise, reason, handled) {
  if (handled) rejected.delete(promise);
  else rejected.set(promise, reason);
}

/** Return the first such reason in an array, and forget all; undefined if there is none. */
export function takeRejection() {
  for (const reason of rejected.values()) {
    rejected.clear();
    return [reason];
  }
  return undefined;
}

/** Call a function once, when the task has nothing else left to do. */
export function atEnd(call) {
  last = call;
}

/** Return what `atEnd` was given, once. */
export function takeLast() {
  const call = last;
  last = undefined;
  return call;
}
