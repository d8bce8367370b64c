"""The language part of bundles of JavaScript: the main file of a folder, the files of Rota that go along, whether a
file is a flow, and what becomes of TypeScript.

The types of TypeScript are taken away here, at the deploy, so the JavaScript is the content and its digest covers what
runs. The package quickjs-rs does that (a build of OXC as a WebAssembly module); nobody else needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from rota.common.errors import CodeError
from rota.runtimes.languages import Language
from rota.sdk.files import folder

TRANSFORM: Final = "quickjs-rs==0.2.6"
_MAINS: Final = (
    "agent.js", "agent.mjs", "agent.ts", "flow.js", "flow.mjs", "flow.ts", "main.js", "main.ts", "index.js", "index.ts",
)  # fmt: skip
_SUFFIXES: Final = {".ts": ".js", ".mts": ".mjs", ".cts": ".cjs", ".tsx": ".js"}
# What begins at the start of a line, so not in a comment; the braces of a list of exports may also follow code.
_DECLARED: Final = re.compile(
    r"^\s*export\s+(?:async\s+)?(?:function\b\s*\*?|class|const|let|var)\s*([\w$]+)", re.MULTILINE
)
_LISTED: Final = re.compile(r"(?:^|[;}])\s*export\s*\{([^{}]*)\}", re.MULTILINE)
_ASSIGNED: Final = re.compile(r"^\s*(?:module\s*\.\s*)?exports\s*\.\s*([\w$]+)\s*=", re.MULTILINE)
_MODULE: Final = re.compile(r"^\s*module\s*\.\s*exports\s*=\s*(\{.*)", re.MULTILINE | re.DOTALL)
_KEY: Final = re.compile(r"[{,]\s*(?:async\s+)?([\w$]+)\s*[(:,}]")
_PACKAGES: Final = "node_modules"  # packages bring the JavaScript of what they have in TypeScript


def _boot_files() -> Mapping[str, bytes]:
    found = sorted((folder("javascript") / "rota").glob("*.js"))
    return {f"rota/{path.name}": path.read_bytes() for path in found}


def _convert(path: str, data: bytes) -> tuple[str, bytes]:
    """Return TypeScript as JavaScript, and any other file as it is. Raises `CodeError` for what is no TypeScript."""
    place = PurePosixPath(path)
    suffix = _SUFFIXES.get(place.suffix)
    if suffix is None or place.stem.endswith(".d") or _PACKAGES in place.parts:
        return path, data
    try:
        from quickjs_rs._transform import TransformError
        from quickjs_rs.transforms import transform_source
        from wasmtime import Trap
    except ImportError:
        raise CodeError(
            f"{path} is TypeScript, and what takes its types away is missing: pip install {TRANSFORM}"
        ) from None

    def problem(text: str) -> str:
        try:
            transform_source(path, text)
        except (TransformError, Trap) as error:
            return str(error)
        return ""

    text = ""
    try:
        text = data.decode()
        source = transform_source(path, text)
    except UnicodeDecodeError as error:
        raise CodeError(f"{path} is no TypeScript: {error}") from None
    except TransformError as error:
        said = str(error)
        what = said.removeprefix(f"source parse error in {path}: ")
        ends = "`EOF`" in what  # most beginnings fail so
        where = _place(text, lambda start: start == text if ends else problem(start) == said)
        raise CodeError(f"{path} is no TypeScript: {what} at {path}:{where}") from None
    except Trap:  # OXC is a module of its own, and its stack ends
        raise CodeError(f"{path} is nested too deep for what takes the types of TypeScript away: nest less") from None
    return str(place.with_suffix(suffix)), source.encode()


def _place(text: str, fails: Callable[[str], bool]) -> str:
    """Return `line:column` of what makes `text` fail: the end of its shortest beginning that `fails` in the same way.

    The transform does not say where; it stops at the first mistake, so what stands behind it changes nothing.
    """
    lines = text.splitlines(keepends=True)
    line = _first(len(lines), lambda count: fails("".join(lines[:count])))
    before, last = "".join(lines[: line - 1]), "".join(lines[line - 1 : line])
    return f"{line}:{_first(len(last), lambda count: fails(before + last[:count]))}"


def _first(most: int, holds: Callable[[int], bool]) -> int:
    """Return the least count, from 1 on, for which `holds` is true; it stays true, and is true for `most`."""
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _is_flow(source: bytes) -> bool:
    """Return whether a module exports `flow` and not `agent`, as far as its text says."""
    names = set(_exported(source.decode(errors="replace")))
    return "flow" in names and "agent" not in names


def _exported(text: str) -> Iterator[str]:
    """Yield the names that a module exports, of ECMAScript or CommonJS."""
    for pattern in (_DECLARED, _ASSIGNED):
        yield from pattern.findall(text)
    for items in _LISTED.findall(text):
        yield from [item.split()[-1] for item in items.split(",") if item.strip()]
    for exports in _MODULE.findall(text):
        yield from _KEY.findall(exports)


LANGUAGE: Final = Language(mains=_MAINS, boot_files=_boot_files, convert=_convert, is_flow=_is_flow)
