// `console`: values as text, in lines of the task's log.

import { AskFailed } from "./failures.js";
import { log } from "./host.js";

const DEPTH_MAX = 4;
const ITEMS_MAX = 100;
const WIDTH_MAX = 100;
const SHORT_MAX = 20;

const sinks = { out: log, err: log };
let indent = "";
const counts = new Map();
const starts = new Map();

/** Send what the console prints to these functions (text without a line end) from now on. */
export function redirect(out, err) {
  sinks.out = out;
  sinks.err = err;
}

/** Return a value as text: a text as it is, anything else as a program would write it. */
export function show(value) {
  return typeof value === "string" ? value : inspect(value, 0, []);
}

function inspect(value, depth, above) {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "bigint":
      return `${value}n`;
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "function":
      return `[${/^class\b/.test(Function.prototype.toString.call(value)) ? "class" : "function"} ${value.name || "(anonymous)"}]`;
    case "object":
      return value === null ? "null" : inspectObject(value, depth, above);
    default:
      return String(value);
  }
}

function inspectObject(value, depth, above) {
  if (value instanceof Error) return describeError(value);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise";
  if (value instanceof Number || value instanceof String || value instanceof Boolean) {
    return `[${value.constructor.name}: ${inspect(value.valueOf(), depth, above)}]`;
  }
  const name = value.constructor?.name ?? (Object.getPrototypeOf(value) === null ? "[null prototype]" : "");
  if (value instanceof ArrayBuffer) return `ArrayBuffer(${value.byteLength})`;
  if (above.includes(value)) return "[circular]";
  if (depth > DEPTH_MAX) return Array.isArray(value) ? "[...]" : `[${name || "object"}]`;
  const inside = [...above, value];
  const one = (item) => inspect(item, depth + 1, inside);
  const pair = ([key, item]) => `${one(key)} => ${one(item)}`;
  if (Array.isArray(value)) return join("[", value, one, "]");
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return `${name}(${value.length}) ${join("[", value, one, "]")}`;
  if (value instanceof Map) return `Map(${value.size}) ${join("{", value, pair, "}")}`;
  if (value instanceof Set) return `Set(${value.size}) ${join("{", value, one, "}")}`;
  const fields = Object.keys(value);
  const field = (key) => {
    const name = /^[A-Za-z_$][\w$]*$/.test(key) ? key : JSON.stringify(key);
    try {
      return `${name}: ${one(value[key])}`;
    } catch (error) {
      return `${name}: [throws ${nameOf(error)}]`; // a getter
    }
  };
  return `${name && name !== "Object" ? `${name} ` : ""}${join("{", fields, field, "}", " ")}`;
}

function join(open, items, one, close, space = "") {
  const parts = [];
  let left = items.length ?? items.size;
  for (const item of items) {
    if (parts.length === ITEMS_MAX) {
      parts.push(`... ${left} more`);
      break;
    }
    parts.push(one(item));
    left--;
  }
  if (!parts.length) return open + close;
  const line = parts.join(", ");
  if (line.length <= WIDTH_MAX && !line.includes("\n")) return open + space + line + space + close;
  if (parts.every((part) => part.length <= SHORT_MAX && !part.includes("\n"))) return `${open}\n${rows(parts)}\n${close}`;
  return `${open}\n${parts.map((part) => `  ${part.replaceAll("\n", "\n  ")}`).join(",\n")}\n${close}`;
}

/** Return short parts side by side in indented lines. */
function rows(parts) {
  const lines = [];
  let line = "";
  for (const part of parts) {
    if (line && line.length + part.length > WIDTH_MAX) {
      lines.push(line);
      line = "";
    }
    line += line ? `, ${part}` : `  ${part}`;
  }
  return [...lines, line].join(",\n");
}

/** Return an error's name: of its class if it has no name of its own. */
export function nameOf(error) {
  if (!(error instanceof Error)) return "Error";
  const name = String(error.name);
  return name === "Error" ? String(error.constructor?.name || "Error") : name || "Error";
}

/** Return the frames of an error's stack that are in the author's files, one per line. */
export function framesOf(error) {
  const lines = String(error.stack ?? "").split("\n");
  const own = lines.filter((line) => /^\s+at /.test(line) && !/[ (]rota\/[\w./-]+:\d/.test(line));
  while (own.length && own.at(-1).endsWith("(native)")) own.pop();
  return own.join("\n");
}

/** Return what an ask failed with, and who was asked. */
function askFailure({ kind, message, target }) {
  const [first, ...others] = `${kind}: ${message}`.split("\n");
  return [target ? `${first} (asked ${target})` : first, ...others].join("\n");
}

/** Return an error with its own frames, and its causes. */
export function describeError(error, seen = []) {
  const frames = framesOf(error);
  const said = error instanceof AskFailed ? askFailure(error) : error.message;
  const text = `${nameOf(error)}${said ? `: ${said}` : ""}${frames ? `\n${frames}` : ""}`;
  const cause = error.cause;
  if (!(cause instanceof Error) || seen.includes(cause)) return text;
  return `${text}\ncaused by ${describeError(cause, [...seen, error])}`;
}

/** Return the arguments of a console call as one text; `%s`, `%d`, `%i`, `%f`, `%j`, `%o` and `%O` take the next one. */
function format(values) {
  if (typeof values[0] !== "string" || values.length === 1 || !values[0].includes("%")) return values.map(show).join(" ");
  let next = 1;
  const text = values[0].replace(/%[sdifjoOc%]/g, (mark) => {
    if (mark === "%%") return "%";
    if (next === values.length) return mark;
    const value = values[next++];
    if (mark === "%s") return show(value);
    if (mark === "%d") return String(Number(value));
    if (mark === "%i") return String(Math.trunc(Number(value)));
    if (mark === "%f") return String(Number.parseFloat(value));
    if (mark === "%j") return JSON.stringify(value);
    return mark === "%c" ? "" : inspect(value, 0, []);
  });
  return [text, ...values.slice(next).map(show)].join(" ");
}

function print(sink, values) {
  const text = format(values);
  sinks[sink](indent ? indent + text.replaceAll("\n", `\n${indent}`) : text);
}

export const console = {
  log: (...values) => print("out", values),
  info: (...values) => print("out", values),
  debug: (...values) => print("out", values),
  warn: (...values) => print("err", values),
  error: (...values) => print("err", values),
  dir: (value) => print("out", [value]),
  table: (value) => print("out", [value]),
  trace: (...values) => print("err", [`Trace: ${format(values)}\n${framesOf(new Error("trace"))}`]),
  assert: (condition, ...values) => {
    if (!condition) print("err", ["Assertion failed:", ...values]);
  },
  count: (label = "default") => {
    counts.set(label, (counts.get(label) ?? 0) + 1);
    print("out", [`${label}: ${counts.get(label)}`]);
  },
  countReset: (label = "default") => counts.delete(label),
  group: (...values) => {
    if (values.length) print("out", values);
    indent += "  ";
  },
  groupEnd: () => {
    indent = indent.slice(2);
  },
  time: (label = "default") => starts.set(label, Date.now()),
  timeLog: (label = "default", ...values) => print("out", [`${label}: ${Date.now() - starts.get(label)} ms`, ...values]),
  timeEnd: (label = "default") => {
    console.timeLog(label);
    starts.delete(label);
  },
};
