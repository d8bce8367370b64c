// Modules: which file an import means, as in Node.js, and the source that the engine gets for it. All files are those
// of the bundle; `add` gives a task more of them.

import { args, env } from "./deployed.js";
import { evaluate, read } from "./host.js";
import { textOf } from "./text.js";

const ENDINGS = ["", ".js", ".mjs", ".cjs", ".json", "/index.js", "/index.mjs", "/index.cjs", "/index.json"];
const TEXTS = [".txt", ".md", ".csv", ".html", ".sql", ".yaml", ".yml", ".toml"];
const OWN = "rota/"; // the folder of these files
const PUBLIC = ["rota/program.js", "rota/require.js", "rota/rota.js"]; // what agents may import of them
const IMPORT_CONDITIONS = ["import", "module", "default"];
const REQUIRE_CONDITIONS = ["require", "node", "default"];
const DECLARES = /^[ \t]*(?:import\s*(?:["'{*]|[\w$]+\s*(?:,|\bfrom\b))|export\s*(?:[{*]|(?:default|const|let|var|function|class|async)\b))/m;
const NAMES = [
  /(?:^|[^.\w$])exports\.([A-Za-z_$][\w$]*)\s*=/g,
  /Object\.defineProperty\(\s*(?:module\.)?exports,\s*["']([A-Za-z_$][\w$]*)["']/g,
];
const RESERVED = new Set(
  ("arguments await break case catch class const continue debugger default delete do else enum eval export extends false " +
    "finally for function if implements import in instanceof interface let new null package private protected public " +
    "return static super switch this throw true try typeof var void while with yield __esModule").split(" "),
);

const added = new Map();
const packages = new Map();
const required = new Map();

/** Give this task one more file. */
export function add(path, bytes) {
  added.set(join("", path), bytes);
}

/** Return the bytes of a file, or undefined. */
export function file(path) {
  const found = added.get(path);
  if (found !== undefined) return found;
  const bytes = read(path);
  return bytes === undefined ? undefined : new Uint8Array(bytes);
}

/** Return the path that a path means from a folder; both without a leading slash. */
export function join(folder, path) {
  const parts = path.startsWith("/") || !folder ? [] : folder.split("/");
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part && part !== ".") parts.push(part);
  }
  return parts.join("/");
}

function folderOf(path) {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

function packageOf(folder) {
  if (!packages.has(folder)) {
    const bytes = file(folder ? `${folder}/package.json` : "package.json");
    packages.set(folder, bytes === undefined ? undefined : JSON.parse(textOf(bytes)));
  }
  return packages.get(folder);
}

/** Return the path of a file, with an ending that was left out; undefined if there is none. */
function find(path) {
  for (const ending of ENDINGS) if (path + ending && file(path + ending) !== undefined) return path + ending;
  // TypeScript's own names: the bundle has the JavaScript made of it.
  const plain = path.replace(/\.([cm]?)tsx?$/, ".$1js");
  return plain !== path && file(plain) !== undefined ? plain : undefined;
}

/** Return the path of the file that `specifier` means in the file `base`. Throws a ReferenceError if there is none. */
export function resolve(base, specifier, conditions = IMPORT_CONDITIONS) {
  const found = lookUp(folderOf(base), specifier, conditions);
  if (found !== undefined && (PUBLIC.includes(found) || !found.startsWith(OWN) || base.startsWith(OWN))) return found;
  const builtin = /^(node:|(fs|path|os|net|http|https|crypto|child_process|worker_threads|stream|util|url|events|buffer)$)/;
  const why = builtin.test(specifier)
    ? "a module of Node.js, which agents do not have"
    : "which is not in what was deployed (rota deploy: --with PATH adds a file, a folder or node_modules; rota run: --file F)";
  throw new ReferenceError(`${base} imports ${JSON.stringify(specifier)}, ${why}`);
}

function lookUp(folder, specifier, conditions) {
  if (specifier === "rota") return "rota/rota.js";
  if (/^(\.\.?)?\//.test(specifier) || specifier === "." || specifier === "..") return main(join(folder, specifier), conditions);
  if (specifier.startsWith("#")) return imported(folder, specifier, conditions);
  const [, name, rest] = /^((?:@[^/]+\/)?[^/]+)(.*)$/.exec(specifier) ?? [];
  if (name === undefined) return undefined;
  for (let at = folder; ; at = folderOf(at)) {
    for (const place of [join(at, `node_modules/${name}`), ...(at ? [] : [name])]) {
      const found = inPackage(place, rest, conditions);
      if (found !== undefined) return found;
    }
    if (!at) return undefined;
  }
}

/** Return the file of a path: the file itself, or the main file of a folder with a package.json. */
function main(path, conditions) {
  const meant = packageOf(path);
  const own = meant && (conditions === IMPORT_CONDITIONS && meant.module ? meant.module : meant.main);
  return (own && find(join(path, own))) || find(path);
}

function inPackage(place, rest, conditions) {
  const meant = packageOf(place);
  if (meant?.exports !== undefined) {
    const target = exported(meant.exports, `.${rest}`, conditions);
    return target === undefined ? undefined : find(join(place, target));
  }
  return rest ? find(place + rest) : main(place, conditions);
}

function imported(folder, specifier, conditions) {
  for (let at = folder; ; at = folderOf(at)) {
    const table = packageOf(at)?.imports;
    if (table) {
      const target = exported(table, specifier, conditions);
      if (target !== undefined) return target.startsWith(".") ? find(join(at, target)) : lookUp(at, target, conditions);
    }
    if (!at) return undefined;
  }
}

/** Return what the field `exports` or `imports` of a package.json says for a path. */
function exported(table, path, conditions) {
  const paths = typeof table === "object" && table !== null && Object.keys(table).some((key) => /^[.#]/.test(key));
  if (!paths) return path === "." ? chosen(table, conditions) : undefined;
  if (Object.hasOwn(table, path)) return chosen(table[path], conditions);
  for (const key of Object.keys(table).sort((one, other) => other.length - one.length)) {
    const [before, after] = key.split("*");
    if (after === undefined || !path.startsWith(before) || !path.endsWith(after)) continue;
    if (path.length < before.length + after.length) continue;
    const target = chosen(table[key], conditions);
    return target?.replaceAll("*", path.slice(before.length, path.length - after.length));
  }
  return undefined;
}

function chosen(target, conditions) {
  if (typeof target === "string") return target;
  if (Array.isArray(target)) return target.map((one) => chosen(one, conditions)).find((one) => one !== undefined);
  if (typeof target !== "object" || target === null) return undefined;
  for (const key of Object.keys(target)) {
    if (!conditions.includes(key)) continue;
    const found = chosen(target[key], conditions);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Return whether a file is a CommonJS module: by its ending, its package, or else by what is in it. */
function isCommon(path, source) {
  if (path.endsWith(".cjs")) return true;
  if (path.endsWith(".mjs")) return false;
  for (let at = folderOf(path); ; at = folderOf(at)) {
    const type = packageOf(at)?.type;
    if (type !== undefined) return type !== "module";
    if (packageOf(at) !== undefined || !at) break;
  }
  return !DECLARES.test(source) && /\b(require\s*\(|exports\b)/.test(source);
}

/** Return whether a text without a package is meant as an ES module. */
export function isModule(path, source) {
  return !path.endsWith(".cjs") && DECLARES.test(source);
}

/** Return the source of the ES module for a file. Called by the host. */
export function load(path) {
  const bytes = file(path);
  if (bytes === undefined) throw new ReferenceError(`there is no file ${path}`);
  const source = textOf(bytes, true);
  if (path.endsWith(".json")) return `export default JSON.parse(${JSON.stringify(source)});`;
  if (TEXTS.some((ending) => path.endsWith(ending))) return `export default ${JSON.stringify(source)};`;
  if (path.startsWith(OWN) || !isCommon(path, source)) return source;
  const names = [...namesOf(path, source, new Set())].filter((name) => !RESERVED.has(name));
  const head = `import { requireFile } from "/rota/require.js";\nconst it = requireFile(${JSON.stringify(path)});\n`;
  return `${head}export default it;\n${names.map((name, index) => `const n${index} = it?.${name};\nexport { n${index} as ${name} };\n`).join("")}`;
}

/** Return the names that a CommonJS module exports, as far as its text shows them. */
function namesOf(path, source, seen) {
  const found = new Set();
  seen.add(path);
  for (const pattern of NAMES) for (const [, name] of source.matchAll(pattern)) found.add(name);
  for (const [, inside] of source.matchAll(/module\.exports\s*=\s*\{([^{}]*)/g)) {
    for (const [, name] of inside.matchAll(/(?:^|,)\s*(?:get\s+)?["']?([A-Za-z_$][\w$]*)["']?\s*(?=[,:(]|$)/g)) found.add(name);
  }
  for (const [, name] of source.matchAll(/(?:module\.exports\s*=|__exportStar\()\s*require\(\s*["']([^"']+)["']\s*\)/g)) {
    const target = lookUp(folderOf(path), name, REQUIRE_CONDITIONS);
    if (target === undefined || seen.has(target) || target.endsWith(".json")) continue;
    for (const one of namesOf(target, textOf(file(target)), seen)) found.add(one);
  }
  return found;
}

/** Return the `require` of a file. */
export function requireOf(path) {
  const require = (specifier) => requireFile(resolve(path, String(specifier), REQUIRE_CONDITIONS));
  require.resolve = (specifier) => resolve(path, String(specifier), REQUIRE_CONDITIONS);
  return require;
}

/** Run a CommonJS module once, and return its exports. */
export function requireFile(path) {
  const before = required.get(path);
  if (before !== undefined) return before.exports;
  const source = textOf(file(path), true);
  const module = { id: path, filename: path, exports: {}, loaded: false };
  if (path.endsWith(".json")) {
    module.exports = JSON.parse(source);
    required.set(path, module);
    return module.exports;
  }
  if (!isCommon(path, source) && DECLARES.test(source)) {
    throw new TypeError(`require of ${path}, which is an ES module: import it`);
  }
  required.set(path, module);
  try {
    const head = "(function (exports, require, module, __filename, __dirname, process, global) {";
    const run = evaluate(path, `${head}${source.replace(/^#!.*/, "")}\n})`);
    const process = {
      env: { NODE_ENV: "production", ...env },
      argv: ["javascript", path, ...args],
      platform: "wasi",
      versions: {},
      nextTick: queueMicrotask,
    };
    run.call(module.exports, module.exports, requireOf(path), module, path, folderOf(path), process, globalThis);
  } catch (error) {
    required.delete(path);
    throw error;
  }
  module.loaded = true;
  return module.exports;
}
