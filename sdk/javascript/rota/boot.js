// Begins the interpreter, loads an agent and runs its task. The host (runtimes/javascript_driver.py) calls the exports.

import "./globals.js";
import { describeError, nameOf } from "./console.js";
import { Failure, close, context, failTask, hasFailed, open } from "./context.js";
import { setDeployed } from "./deployed.js";
import { takeLast, takeRejection } from "./endings.js";
import { log } from "./host.js";
import "./program.js"; // so that it is in the image, as are the next two
import { seed } from "./random.js";
import "./require.js";
import "./rota.js";
import { runTimer } from "./timers.js";

export const PROTOCOL = 2n; // as in javascript_driver.py
const TEXT_MAX = 2000; // of a failure that the journal keeps

let handler;
let settled = false;
let loading;

// What the engine asks, and the host passes on.
export { load as loadModule, resolve } from "./modules.js";
export { noteRejection } from "./endings.js";

/** Begin to load an agent; the jobs that this leaves are the host's to run. `deployed`: JSON of entry, args, env. */
export function load(deployed) {
  const [entry, args, env] = JSON.parse(deployed);
  setDeployed(args, env);
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
  if (runTimer()) return undefined;
  const rejection = takeRejection();
  if (rejection) return described(rejection[0])[1];
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
    else end(value);
  } catch (error) {
    thrown(error);
  }
}

/** Return the parts of the output (`close` of context.js), or undefined after a timer, whose jobs are the host's to run. */
export function finish() {
  try {
    if (!hasFailed()) {
      if (runTimer()) return undefined;
      takeLast()?.();
      const rejection = takeRejection();
      if (rejection) thrown(rejection[0]);
      else if (!settled) failTask("Error", "the handler awaits what nothing resolves");
    }
    return close();
  } catch (error) {
    thrown(error); // the state cannot be stored
    return close();
  }
}

/** End the handler. What it returns is nothing, or the number that `emit` or `ask` gives an arrow function. */
function end(value) {
  settled = true;
  if (value === undefined || value === null || typeof value === "number") return;
  const what = typeof value === "object" ? (value.constructor?.name ?? "object") : typeof value;
  thrown(new TypeError(`the handler returned ${what}; use ctx.reply(...), and return nothing`));
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
