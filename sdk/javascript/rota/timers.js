// setTimeout and its relatives. No time passes inside a task: a timer fires when nothing else is left to do, the
// shortest delay first. For a delay that takes time an agent uses `ctx.timer`. In a flow those with a delay take it.

import { noteRejection } from "./endings.js";

const waiting = new Map();
const sent = new Map(); // of a flow: what forgets each
let send; // of a flow
let last = 0;

/** From now on, call `how` for timers with a delay: (delay, call) => a function that forgets it. */
export function sendTimers(how) {
  send = how;
}

function add(call, delay, values, every) {
  if (typeof call !== "function") throw new TypeError("a timer takes a function");
  const due = Math.max(0, Number(delay) || 0);
  const timer = { call, values, due, every: every ? Math.max(1, due) : 0 };
  if (send !== undefined && (due > 0 || every)) begin(++last, timer);
  else waiting.set(++last, timer);
  return last;
}

function begin(id, timer) {
  const came = () => {
    sent.delete(id);
    if (timer.every) begin(id, timer);
    fire(timer);
  };
  sent.set(id, send(Math.max(timer.due, timer.every), came));
}

function fire(timer) {
  try {
    timer.call(...timer.values);
  } catch (error) {
    noteRejection(timer, error, false);
  }
}

export const setTimeout = (call, delay, ...values) => add(call, delay, values, false);
export const setInterval = (call, delay, ...values) => add(call, delay, values, true);
export const setImmediate = (call, ...values) => add(call, 0, values, false);
export const clearTimeout = (id) => {
  waiting.delete(id);
  sent.get(id)?.();
  sent.delete(id);
};

/** Call the timer that is due first; return whether there was one. */
export function runTimer() {
  if (!waiting.size) return false;
  let first = 0;
  for (const [id, timer] of waiting) if (!first || timer.due < waiting.get(first).due) first = id;
  const timer = waiting.get(first);
  waiting.delete(first); // and added again at the end, after those that are due at the same time
  if (timer.every) waiting.set(first, { ...timer, due: timer.due + timer.every });
  for (const one of waiting.values()) one.due -= timer.due;
  fire(timer);
  return true;
}
