// Code as data: an agent whose messages are programs. docs/RUNTIMES.md has the maps of the payload and of the reply.

import { describeError, nameOf, redirect, show } from "./console.js";
import { atEnd, takeRejection } from "./endings.js";
import { evaluateAsync, evaluateModule } from "./host.js";
import { pack } from "./messagepack.js";
import { add, isModule, requireOf } from "./modules.js";
import { bytesOf, textOf, utf8 } from "./text.js";

const NAME = "program.js";
const FIELDS = ["source", "args", "files", "stdin", "value", "name"];

class Exit extends Error {}

const out = [];
const err = [];
let result = null;
let error = null;
let code = 0;
let settled = false;

export function agent(ctx) {
  const { source, args, files, stdin, value, name } = programOf(ctx);
  for (const [path, data] of files) add(path, data);
  redirect(
    (text) => out.push(text, "\n"),
    (text) => err.push(text, "\n"),
  );
  const process = { argv: ["javascript", name, ...args], env: {}, exit, stdout: streamOf(out), stderr: streamOf(err) };
  Object.assign(globalThis, { args, stdin, value, exit, process, require: requireOf(name) });
  atEnd(() => ctx.reply(reply()));
  run(name, source).then(
    (found) => {
      result = found ?? null;
      settled = true;
    },
    (thrown) => {
      ended(thrown);
      settled = true;
    },
  );
}

async function run(name, source) {
  return isModule(name, source) ? (await evaluateModule(name, source)).default : (await evaluateAsync(name, source)).value;
}

function exit(number = 0) {
  code = Number(number) & 0xff;
  throw new Exit(`exit ${code}`);
}

function streamOf(parts) {
  return {
    write: (text) => {
      parts.push(typeof text === "string" ? text : textOf(bytesOf(text)));
      return true;
    },
  };
}

/** Take note of what ended the program, unless something has before. */
function ended(thrown) {
  if (thrown instanceof Exit || error) return;
  const failed = thrown instanceof Error;
  error = failed
    ? { type: nameOf(thrown), message: String(thrown.message), traceback: describeError(thrown) }
    : { type: "Error", message: show(thrown), traceback: `Error: ${show(thrown)} was thrown, which is no Error` };
  code = 1;
}

function reply() {
  const rejection = takeRejection();
  if (rejection) ended(rejection[0]);
  else if (!settled) ended(new Error("the program awaits what nothing resolves"));
  return { stdout: out.join(""), stderr: err.join(""), value: plain(result), error, exit: code };
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

/** Return the program of a message. A payload that is no MessagePack map is the source itself. */
function programOf(ctx) {
  const bad = (text) => ctx.fail("bad_program", text);
  let given;
  try {
    given = ctx.message.value;
  } catch {
    given = undefined;
  }
  if (typeof given !== "object" || given === null || Array.isArray(given) || bytesOf(given) || given instanceof Map) {
    try {
      given = { source: ctx.message.text };
    } catch {
      bad("the payload is neither a MessagePack map nor a program in UTF-8");
    }
  }
  const unknown = Object.keys(given).find((field) => !FIELDS.includes(field));
  if (unknown !== undefined) bad(`unknown field ${JSON.stringify(unknown)}; known: ${FIELDS.join(", ")}`);
  const { source, value = null } = given;
  const args = given.args ?? [];
  const files = given.files ?? {};
  const stdin = given.stdin ?? "";
  const name = given.name ?? NAME;
  if (typeof source !== "string") bad("source: not a str");
  if (!Array.isArray(args) || args.some((arg) => typeof arg !== "string")) bad("args: not an array of str");
  if (typeof name !== "string") bad("name: not a str");
  if (typeof files !== "object" || Array.isArray(files) || files instanceof Map) bad("files: not a map of path to content");
  const contents = Object.entries(files).map(([path, data]) => {
    if (typeof data !== "string" && !bytesOf(data)) bad(`files[${path}]: neither bin nor str`);
    return [path, typeof data === "string" ? utf8(data) : bytesOf(data)];
  });
  if (typeof stdin !== "string" && !bytesOf(stdin)) bad("stdin: neither bin nor str");
  return { source, args, files: contents, stdin: typeof stdin === "string" ? stdin : textOf(bytesOf(stdin)), value, name };
}
