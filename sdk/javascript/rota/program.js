// Runs a program that a task carries (code as data). Payload, a MessagePack map:
// {source, args, files, stdin, value}; the reply: {stdout, stderr, value, error, exit}. docs/SDK.md describes both.

import { describeError, nameOf, redirect, show } from "./console.js";
import { evaluateAsync, evaluateModule } from "./host.js";
import { add, isModule, requireOf } from "./modules.js";
import { pack, unpack } from "./messagepack.js";
import { bytesOf, utf8 } from "./text.js";

const NAME = "program.js";

class Exit extends Error {}

export async function agent(ctx) {
  const { source, args = [], files = {}, stdin = "", value = null } = programOf(ctx.message);
  for (const [path, data] of Object.entries(files)) add(path, typeof data === "string" ? utf8(data) : bytesOf(data));
  const out = [];
  const err = [];
  redirect(
    (text) => out.push(text, "\n"),
    (text) => err.push(text, "\n"),
  );
  let code = 0;
  const exit = (number = 0) => {
    code = Number(number) | 0;
    throw new Exit(`exit ${code}`);
  };
  Object.assign(globalThis, { args, stdin: text(stdin), value, exit, require: requireOf(NAME) });
  let result = null;
  let error = null;
  try {
    result = await run(source);
  } catch (thrown) {
    if (!(thrown instanceof Exit)) {
      error = failureOf(thrown);
      code = 1;
      err.push(error.traceback, "\n");
    }
  }
  ctx.reply({ stdout: out.join(""), stderr: err.join(""), value: plain(result), error, exit: code });
}

/** Return the program of a message: a map, or a text that is the source itself. */
function programOf(message) {
  let found;
  try {
    found = message.value;
  } catch {
    found = undefined;
  }
  if (typeof found !== "object" || found === null || Array.isArray(found)) return { source: message.text };
  if (typeof found.source !== "string") throw new TypeError("the program has no source: it is a map {source: str, ...}");
  return found;
}

async function run(source) {
  if (isModule(NAME, source)) return (await evaluateModule(NAME, source)).default ?? null;
  return (await evaluateAsync(NAME, source)).value ?? null;
}

function failureOf(thrown) {
  if (!(thrown instanceof Error)) return { type: "Error", message: show(thrown), traceback: `Error: ${show(thrown)}` };
  return { type: nameOf(thrown), message: String(thrown.message), traceback: describeError(thrown) };
}

/** Return a value that MessagePack can hold: the value itself, or its text. */
function plain(value) {
  try {
    pack(value);
    return value;
  } catch {
    return show(value);
  }
}

function text(value) {
  return typeof value === "string" ? value : new TextDecoder().decode(value);
}
