// setTimeout and its relatives. No time passes inside a task: a timer fires when nothing else is left to do, the
// shortest delay first. For a delay that takes time use `ctx.timer`.

import { noteRejection } from "./endings.js";

const waiting = new Map();
let last = 0;

function add(call, delay, values, every) {
  if (typeof call !== "function") throw new TypeError("a timer takes a function");
  const due = Math.max(0, Number(delay) || 0);
  waiting.set(++last, { call, values, due, every: every ? Math.max(1, due) : 0 });
  return last;
}

export const setTimeout = (call, delay, ...values) => add(call, delay, values, false);
export const setInterval = (call, delay, ...values) => add(call, delay, values, true);
export const setImmediate = (call, ...values) => add(call, 0, values, false);
export const clearTimeout = (id) => void waiting.delete(id);

/** Call the timer that is due first; return whether there was one. */
export function runTimer() {
  if (!waiting.size) return false;
  let first = 0;
  for (const [id, timer] of waiting) if (!first || timer.due < waiting.get(first).due) first = id;
  const timer = waiting.get(first);
  waiting.delete(first); // and added again at the end, after those that are due at the same time
  if (timer.every) waiting.set(first, { ...timer, due: timer.due + timer.every });
  for (const one of waiting.values()) one.due -= timer.due;
  try {
    timer.call(...timer.values);
  } catch (error) {
    noteRejection(timer, error, false);
  }
  return true;
}
