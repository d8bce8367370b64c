// Makes tests/kits/agent_component.wasm: a component of sdk/wit/agent.wit around a core module that only traps.
// tests/kits/components.py puts other core modules into it, so tests need no component toolchain.
//
//   npm install --prefix /tmp/jco @bytecodealliance/jco@1.35.0
//   python -c 'import wasmtime; open("/tmp/core.wasm", "wb").write(wasmtime.wat2wasm(open("/tmp/core.wat").read()))'
//   NODE_PATH=/tmp/jco/node_modules node scripts/component_envelope.mjs /tmp/core.wasm
//
// with /tmp/core.wat:
//   (module (memory (export "memory") 1)
//     (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
//     (func (export "rota:agent/handler@2.0.0#handle") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable))
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { componentEmbed, componentNew } = await import(
  pathToFileURL(createRequire(import.meta.url).resolve("@bytecodealliance/jco")));
const root = new URL("../", import.meta.url);
const embedded = await componentEmbed({
  binary: await readFile(process.argv[2]),
  witSource: await readFile(new URL("sdk/wit/agent.wit", root), "utf8"),
  world: "agent",
});
await writeFile(new URL("tests/kits/agent_component.wasm", root), await componentNew(embedded, []));
