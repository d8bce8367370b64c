// Begins the interpreter, loads an agent and runs its task. The host (runtimes/javascript_driver.py) calls the exports.

import "./globals.js";
import { describeError, nameOf } from "./console.js";
import { close, closeStep, context, failTask, hasFailed, open } from "./context.js";
import { setDeployed } from "./deployed.js";
import { takeLast, takeRejection } from "./endings.js";
import { Failure } from "./failures.js";
import { flowContext, isWaiting, placesOfWaits, takeMessage } from "./flow.js";
import { log } from "./host.js";
import "./program.js"; // so that it is in the image, as are the next two
import { seed } from "./random.js";
import "./require.js";
import "./rota.js";
import { runTimer } from "./timers.js";

export const PROTOCOL = 3n; // as in javascript_driver.py
const NOTHING_COMES = "the flow waits for nothing that can come: await ctx.ask(...), ctx.sleep(...) or what came of them";
const TEXT_MAX = 2000; // of a failure that the journal keeps

let handler;
let flow;
let name; // of the main file
let called = false; // a flow
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
  const functionOf = (...found) => found.find((one) => typeof one === "function");
  flow = functionOf(namespace.flow, exported?.flow);
  handler = functionOf(namespace.agent, exported?.agent, flow ? undefined : exported);
  name = entry;
  loading = undefined;
  if (handler !== undefined || flow !== undefined) return "";
  const names = Object.keys(namespace).join(", ");
  const what = `${entry} exports no function agent${names ? `, only ${names}` : ""}`;
  return `${what}: write export function agent(ctx) { ... }, or export async function flow(ctx) { ... }`;
}

/** Begin the task: see `open` of context.js; `header` is JSON of its fields, and last whether this is a call of a flow. */
export function begin(header, payload, state, entropy) {
  const fields = JSON.parse(header);
  seed(entropy);
  if (fields[7]) return beginStep(fields, payload, entropy);
  open(fields, payload, state, entropy);
  if (handler === undefined) failTask("no_agent", `${name} is deployed as an agent and exports no function agent`);
  else start(handler, context, end);
}

/** Give a call of a flow its next message. */
function beginStep(fields, payload, entropy) {
  const isFirst = !called;
  called = true;
  takeMessage(fields, payload, entropy);
  if (!isFirst) return;
  if (flow === undefined) failTask("no_flow", `${name} is deployed as a flow (--flow) and exports no function flow`);
  else start(flow, flowContext, endFlow);
}

function start(call, ctx, done) {
  try {
    const value = call(ctx);
    if (typeof value?.then === "function") value.then(done, thrown);
    else done(value);
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
      else if (!settled) {
        if (!called) failTask("Error", "the handler awaits what nothing resolves");
        else if (isWaiting()) return closeStep(placesOfWaits());
        else failTask("waits_for_nothing", NOTHING_COMES);
      }
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

/** End a flow. What it returns is its answer; without that, what it has given to ctx.reply. */
function endFlow(value) {
  try {
    if (value !== undefined && value !== null) flowContext.reply(value);
    settled = true;
  } catch (error) {
    thrown(error);
  }
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
