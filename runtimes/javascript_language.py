"""The language part of bundles of JavaScript: the main file of a folder, the files of Rota that go along, and what
becomes of TypeScript.

The types of TypeScript are taken away here, at the deploy, so the JavaScript is the content and its digest covers what
runs. The package quickjs-rs does that (a build of OXC as a WebAssembly module); nobody else needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from rota.common.errors import CodeError
from rota.runtimes.languages import Language
from rota.sdk.files import folder

TRANSFORM: Final = "quickjs-rs==0.2.6"
_MAINS: Final = ("agent.js", "agent.mjs", "agent.ts", "main.js", "main.ts", "index.js", "index.ts")
_SUFFIXES: Final = {".ts": ".js", ".mts": ".mjs", ".cts": ".cjs", ".tsx": ".js"}
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
    try:
        source = transform_source(path, data.decode())
    except (TransformError, UnicodeDecodeError) as error:
        raise CodeError(f"{path} is no TypeScript: {error}") from None
    except Trap:  # OXC is a module of its own, and its stack ends
        raise CodeError(f"{path} is nested too deep for what takes the types of TypeScript away: nest less") from None
    return str(place.with_suffix(suffix)), source.encode()


LANGUAGE: Final = Language(mains=_MAINS, boot_files=_boot_files, convert=_convert)
