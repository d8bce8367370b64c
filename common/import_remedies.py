"""What to do about an import that Rota does not offer: which toolchain wants it, and the flag that removes it. PURE."""

from __future__ import annotations

import re
from typing import Final

_REMEDIES: Final = (  # the first pattern that fits `module.name` decides
    (r"env\.abort", "AssemblyScript: build with --use abort= (the SDK passes it and reports the text of an abort)"),
    (r"env\.seed", "AssemblyScript: build with --use seed=~lib/rota/rotaSeed, as the SDK does"),
    (r"env\.trace", "AssemblyScript: use ctx.log"),
    (r"env\.(Date|performance|console|crypto|Math|process|Reflect|JSON)\..*", "AssemblyScript: there is no {name} "
     "outside of a browser: use ctx.message.nowMs for the time, ctx.message.entropy for chance, ctx.log for text"),
    (r"env\.memory", "the module wants its memory from the host: link without --import-memory (AssemblyScript: without "
     "--importMemory)"),
    (r"env\.__indirect_function_table", "link without --import-table"),
    (r"env\.(__memory_base|__table_base|__stack_pointer)|GOT\.\w+\..*", "this is a shared library: link a program or a "
     "reactor, without -shared and -fPIC"),
    (r"env\.(emscripten_|_?emscripten|invoke_|__cxa_|__syscall_|setTempRet|getTempRet).*|a\.\w{1,2}",
     "Emscripten: build with -sSTANDALONE_WASM --no-entry, or with zig cc or wasi-sdk"),
    (r"env\.(rust_eh_personality|__rust_.*)", "Rust: build with -C panic=abort"),
    (r"env\..*", "the linker left the symbol open: define it, or link the library that has it. A flag such as "
     "-Wl,--allow-undefined (Rust: -C link-arg=--allow-undefined) hides that it is missing"),
    (r"(gojs|go)\..*", "Go for JavaScript: build with GOOS=wasip1 GOARCH=wasm instead of GOOS=js"),
    (r"wasi_unstable\..*", "this is WASI preview 0: build with a newer toolchain, for wasi_snapshot_preview1"),
    (r"wasi:.*", "this is WASI preview 2: deploy the component with --kind component, or build for preview 1 (Rust: "
     "--target wasm32-wasip1)"),
    (r"wasi_ephemeral_.*|wasix_.*|wasi\..*", "only wasi_snapshot_preview1 is offered: build for that (Rust: --target "
     "wasm32-wasip1, Go: GOOS=wasip1)"),
    (r"wasi_snapshot_preview1\..*", "preview 1 has no function of this name: build with a toolchain for wasm32-wasip1"),
    (r"(__wbindgen_.*|wbg|\./.*_bg\.js|\./.*)\..*", "wasm-bindgen: build without it, and without features "
     'such as "js" of getrandom (cargo tree -e features shows who wants them)'),
    (r"extism:.*", "this is an Extism plug-in: build it with an SDK of Rota instead"),
    (r"rota\..*", "this version of Rota has no such function: docs/AGENTS.md lists those that it has"),
)  # fmt: skip
_PATTERNS: Final = tuple((re.compile(pattern, re.DOTALL), remedy) for pattern, remedy in _REMEDIES)
_OTHERWISE: Final = "remove it, and return what the module wants done as emits"


def remedy_for(module: str, name: str) -> str:
    """Return what to do about an import that is not offered."""
    for pattern, remedy in _PATTERNS:
        if pattern.fullmatch(f"{module}.{name}"):
            return remedy.format(name=name) if "{name}" in remedy else remedy
    return _OTHERWISE
