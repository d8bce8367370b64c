// Begins the interpreter, loads an agent and runs its task. The host (runtimes/javascript_driver.py) calls the exports.

import "./globals.js";
import { describeError, nameOf } from "./console.js";
import { Failure, close, context, failTask, hasFailed, open } from "./context.js";
import { log } from "./host.js";
import { load as loadModule, resolve } from "./modules.js";
import { seed } from "./random.js";
import "./require.js"; // into the image
import "./rota.js";
import { runTimer } from "./timers.js";

const TEXT_MAX = 2000; // of a failure that the journal keeps

let handler;
let settled = false;
let loading;
const rejected = new Map();

// For the engine's own questions, which the host passes on by name. Not writable, so an agent cannot take their place.
Object.defineProperty(globalThis, "__rota", {
  value: Object.freeze({
    resolve,
    load: loadModule,
    rejection: (promise, reason, handled) => (handled ? rejected.delete(promise) : rejected.set(promise, reason)),
  }),
});

/** Begin to load an agent; the jobs that this leaves are the host's to run. */
export function load(entry) {
  loading = { entry };
  import(`/${entry}`).then(
    (namespace) => {
      loading.namespace = namespace;
    },
    (error) => {
      loading.problem = described(error)[1];
    },
  );
}

/** Return "" if the agent is loaded, or what is wrong with it; undefined while there are timers to run. */
export function loaded() {
  const { entry, namespace, problem } = loading;
  if (problem !== undefined) return problem;
  try {
    if (runTimer()) return undefined;
  } catch (error) {
    return described(error)[1];
  }
  if (rejected.size) return described(rejected.values().next().value)[1];
  if (namespace === undefined) return `${entry}: it awaits what nothing resolves`;
  const exported = namespace.default;
  handler = [namespace.agent, exported?.agent, exported].find((one) => typeof one === "function");
  loading = undefined;
  if (handler !== undefined) return "";
  const names = Object.keys(namespace).join(", ");
  return `${entry} exports no function agent${names ? `, only ${names}` : ""}: write export function agent(ctx) { ... }`;
}

/** Begin the task: see `open` of context.js; `header` is JSON. */
export function begin(header, payload, state, entropy) {
  open(JSON.parse(header), payload, state, entropy);
  seed(entropy);
  try {
    const value = handler(context);
    if (typeof value?.then === "function") value.then(end, thrown);
    else end();
  } catch (error) {
    thrown(error);
  }
}

/** Return the parts of the output (`close` of context.js), or undefined after a timer, whose jobs are the host's to run. */
export function finish() {
  try {
    if (!hasFailed() && rejected.size) thrown(rejected.values().next().value);
    if (!hasFailed() && runTimer()) return undefined;
    if (!settled && !hasFailed()) failTask("Error", "the handler awaits what nothing resolves");
    return close();
  } catch (error) {
    thrown(error); // a timer threw, or the state cannot be stored
    return close();
  }
}

function end() {
  settled = true;
}

function thrown(error) {
  if (hasFailed() || error instanceof Failure) return;
  const [name, text] = described(error);
  if (text.length > TEXT_MAX) log(text);
  failTask(name, text.startsWith(`${name}: `) ? text.slice(name.length + 2) : text);
}

/** Return the name and the text of anything that was thrown; never throws itself. */
function described(error) {
  try {
    if (error === null) return ["InternalError", "InternalError: out of memory (or null was thrown)"]; // as QuickJS does
    if (error instanceof Error || error instanceof DOMException) return [nameOf(error), describeError(error)];
    return ["Error", `Error: ${String(error)} was thrown, which is no Error`];
  } catch {
    return ["Error", "Error: something was thrown that cannot be shown"];
  }
}
