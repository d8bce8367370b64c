// A call of a flow: what it has asked for and what comes back. docs/SDK.md describes it for authors.
//
// The instance of a call takes one message after another, so its memory is all that is kept. A message is a *step*: it
// settles a promise or fires a timer, and then the procedure goes on until nothing is left that it can do.

import { show } from "./console.js";
import { open, readText, readValue, verbs } from "./context.js";
import { add, emits, integer } from "./emits.js";
import { AskFailed } from "./failures.js";
import { unpack } from "./messagepack.js";
import { generateCall, modelCall, modelTarget, outputsOf, textsCall, vectorsOf } from "./models.js";
import { messageTensors, nextStep } from "./tensors.js";
import { sendTimers } from "./timers.js";

const PLACE_CHARS_MAX = 100;
const PLACES_MAX = 2; // that are named of those at which a call waits

let address;
let turn = 0; // of this step's message
let late = 0; // ms: how far that message's time, from which the host counts, is behind the clock of the call
let clock = 0;
let received = 0; // tensors, with all messages so far
let sleeps = 0;

/** What may still come: asks by "turn/place", sleeps by their number, each with the stack where it was begun. */
const waiting = new Map();
/** Where in the source they were begun: of each "file:line" how many, and the turn of the last. */
const places = new Map();

/** What an ask gave. */
export class Answer {
  #payload;
  constructor(payload, tensors, sender, turn) {
    this.#payload = payload;
    this.tensors = tensors;
    this.sender = sender;
    this.turn = turn;
    Object.freeze(this);
  }
  get payload() {
    return this.#payload;
  }
  get text() {
    return readText(this.#payload);
  }
  get value() {
    return readValue(this.#payload);
  }
}

/** Take over a message: the first one of the call, or what settles something that waits. `fields`: as `open` takes them. */
export function takeMessage(fields, payload, entropy) {
  const [kind, sender, , , reply_to, described] = fields;
  const first = received;
  turn = fields[2];
  clock = Math.max(clock, fields[3]);
  late = clock - fields[3];
  received += described.length;
  emits.length = 0;
  nextStep();
  if (address === undefined) {
    address = fields[6];
    sendTimers(later);
    open(fields, payload, null, entropy);
    return;
  }
  const key = kind === "timer" ? unpack(payload) : `${reply_to[1]}/${reply_to[2]}`;
  const one = forget(key);
  if (one === undefined) return; // a timer that was cleared
  if (kind === "timer") one.resolve();
  else if (kind === "failure") one.reject(failureOf(one, ...unpack(payload)));
  else giveAnswer(one, new Answer(payload, messageTensors(described, first), sender, turn));
}

/** Settle an ask with its answer, or with what it makes of that. */
function giveAnswer(one, answer) {
  try {
    one.resolve(one.take === undefined ? answer : one.take(answer));
  } catch (error) {
    one.reject(failureOf(one, "bad_answer", `what ${one.target} answered cannot be read: ${error}`));
  }
}

/** Return whether anything may still come. */
export function isWaiting() {
  return waiting.size > 0;
}

/** Return where in the source the call waits, such as "trip.js:12": first what was begun last. */
export function placesOfWaits() {
  let last = 0;
  for (const place of places.values()) last = Math.max(last, place.turn);
  const latest = [];
  const others = [];
  for (const [name, place] of places) (place.turn === last ? latest : others).push(name);
  const named = latest.concat(others).slice(0, PLACES_MAX).join(", ");
  const more = places.size - PLACES_MAX;
  return more > 0 ? `${named} and ${more} more` : named;
}

/** Return "file:line" of the innermost frame that is not Rota's, "" if there is none. Regular expressions would cost more. */
function placeIn(stack) {
  for (let from = 0; from < stack.length; ) {
    const end = (stack.indexOf("\n", from) + 1 || stack.length + 1) - 1;
    const line = stack.slice(from, end);
    from = end + 1;
    if (line.includes("(rota/") || line.endsWith("(native)")) continue;
    const open = line.lastIndexOf("(");
    return line.slice((open < 0 ? line.lastIndexOf(" ") : open) + 1, line.lastIndexOf(":")).slice(-PLACE_CHARS_MAX);
  }
  return "";
}

/** Return the failure of an ask, with the stack of the ask. */
function failureOf({ stack, target }, kind, text) {
  const failure = new AskFailed(kind, text, target);
  Object.defineProperty(failure, "stack", { value: stack, writable: true, configurable: true });
  return failure;
}

const notAwaited = () => {
  throw new TypeError("what ctx.ask(...) gives is a promise: await it first");
};
const readings = ["payload", "text", "value", "sender", "tensors", "turn"];

/** The prototype of what asks give: a promise that has nothing of an answer. */
const unawaited = Object.create(
  Promise.prototype,
  Object.fromEntries([...readings.map((name) => [name, { get: notAwaited }]), [Symbol.toPrimitive, { value: notAwaited }]]),
);

/** Wait for what comes under a key. A failure counts where it is awaited, and nowhere else. */
function wait(key, target, take) {
  const { promise, resolve, reject } = Promise.withResolvers();
  promise.catch(() => {});
  note(key, { stack: String(new Error().stack), place: "", resolve, reject, target, take });
  return target === undefined ? promise : Object.setPrototypeOf(promise, unawaited);
}

/** Note something that may come. */
function note(key, one) {
  const name = placeIn(one.stack);
  one.place = name;
  waiting.set(key, one);
  if (!name) return;
  const place = places.get(name);
  if (place === undefined) places.set(name, { count: 1, turn });
  else {
    place.count++;
    place.turn = turn;
  }
}

/** Return what waits under a key, which it does no longer. */
function forget(key) {
  const one = waiting.get(key);
  if (one === undefined) return undefined;
  waiting.delete(key);
  const place = places.get(one.place);
  if (place !== undefined && --place.count === 0) places.delete(one.place);
  return one;
}

/** Send a timer; return its number. */
function sendTimer(delay_ms) {
  add(address, sleeps, "timer", undefined, Math.ceil(delay_ms) + late);
  return sleeps++;
}

/** Call a function after a time; return what forgets it. For setTimeout and its relatives. */
function later(delay_ms, fire) {
  const number = sendTimer(delay_ms);
  note(number, { stack: String(new Error().stack), place: "", resolve: fire });
  return () => forget(number);
}

function sleep(delay_ms) {
  if (!Number.isFinite(delay_ms)) throw new TypeError(`sleep: ${show(delay_ms)} is no number of milliseconds`);
  return delay_ms > 0 ? wait(sendTimer(delay_ms)) : Promise.resolve();
}

function ask(target, value, options, take) {
  const deadline_ms = options?.deadline_ms;
  const place = add(target, value, "ask", options, deadline_ms ? integer(deadline_ms, "ask: the deadline") + late : 0);
  return wait(`${turn}/${place}`, target, take);
}

/** Ask a model; `call`: [value of the payload, tensors], `take`: makes the result of the answer. */
function askModel(model, [value, tensors], options, take) {
  return ask(modelTarget(model), value, { priority: options?.priority, deadline_ms: options?.deadline_ms, tensors }, take);
}

const generatedOf = (answer) => answer.value.generate;
const labelsOf = (answer) => answer.value.classify.labels;

function unknownInFlow(name, instead) {
  return () => {
    throw new TypeError(`a flow has no ctx.${name}: ${instead}`);
  };
}

const noState = unknownInFlow("state", "its variables stay while it waits");
const onlyOnce = "each call is answered once, by what it returns";

/** What a flow gets. */
export const flowContext = Object.freeze({
  ...verbs,
  reply: (value, options) => {
    if (value instanceof Answer) verbs.reply(value.payload, { tensors: value.tensors, ...options });
    else verbs.reply(value, options);
  },
  ask,
  sleep,
  generate: (model, options) => askModel(model, generateCall(options), options, generatedOf),
  embed: (model, texts, options) => askModel(model, textsCall("embed", texts, options), options, vectorsOf),
  classify: (model, texts, options) => askModel(model, textsCall("classify", texts, options), options, labelsOf),
  model: (model, inputs, options) => askModel(model, modelCall(inputs, options), options, outputsOf),
  get state() {
    return noState();
  },
  set state(_value) {
    noState();
  },
  timer: unknownInFlow("timer", "await ctx.sleep(...)"),
  postpone: unknownInFlow("postpone", onlyOnce),
  settle: unknownInFlow("settle", onlyOnce),
  settleFailure: unknownInFlow("settleFailure", onlyOnce),
  handOn: unknownInFlow("handOn", "return await ctx.ask(...)"),
});

/** Give what several promises come to, in the order in which they do. Throws at the first that is rejected. */
export async function* asCompleted(promises) {
  const came = [];
  let wake;
  const note = (end) => {
    came.push(end);
    wake?.();
  };
  const all = [...promises];
  for (const one of all) {
    Promise.resolve(one).then(
      (value) => note({ value }),
      (error) => note({ error, failed: true }),
    );
  }
  for (let place = 0; place < all.length; place++) {
    if (place === came.length) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    const { value, error, failed } = came[place];
    if (failed) throw error;
    yield value;
  }
}
