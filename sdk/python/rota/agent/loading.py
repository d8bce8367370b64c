"""Loading an author's source in the sandbox: the files of the bundle below `/`, one of which has the handlers."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import FileFinder, SourceFileLoader
from types import ModuleType
from typing import Any, Final, NamedTuple

from rota.agent.step import Handler, describe

ROOT: Final = "/"
AGENT: Final = "agent"
FLOW: Final = "flow"
RESERVED: Final = "rota"
_DEPLOYED: Final = {AGENT: "an agent", FLOW: "a flow (--flow)"}


class LoadError(Exception):
    """The source cannot be loaded; the text says why, for its author."""


class Handlers(NamedTuple):
    """What a source has to call. One that it lacks fails whoever calls it."""

    agent: Handler
    flow: Handler


def load(entry: str) -> Handlers:
    """Load the file at path `entry` below `/` and return its handlers.

    Raises `LoadError`, with the source's own traceback if it raised.
    """
    _forget_folders()
    try:
        module = _import_file(entry)
    except LoadError:
        raise
    except BaseException as error:
        name, text, whole = describe(error)
        raise LoadError(f"{entry}: {name}: {text}\n{whole}") from None
    found = {name: getattr(module, name, None) for name in (AGENT, FLOW)}
    if not any(callable(handler) for handler in found.values()):
        raise LoadError(
            f"{entry} has no function `{AGENT}` or `{FLOW}`; write: def {AGENT}(ctx): ... or async def {FLOW}(ctx): ..."
        )
    return Handlers(*[handler if callable(handler) else _missing(entry, name) for name, handler in found.items()])


def _missing(entry: str, name: str) -> Handler:
    def missing(ctx: Any) -> None:
        ctx.fail(f"no_{name}", f"{entry} is deployed as {_DEPLOYED[name]} and has no function `{name}`")

    return missing


def _forget_folders() -> None:
    """Have folders looked at again, whose files came after the interpreter started. `importlib.invalidate_caches` would
    read the directory of the standard library's archive again too, which takes most of a second.
    """
    for finder in sys.path_importer_cache.values():
        if isinstance(finder, FileFinder):
            finder.invalidate_caches()


def _import_file(entry: str) -> ModuleType:
    """Import a file by its path, with its folder and `/` on the path of modules. It gets its own name, or a longer one
    if a module of the standard library has that already.
    """
    folder, _, file = entry.rpartition("/")
    if folder:
        sys.path.insert(0, f"{ROOT}{folder}")
    _check_names(f"{ROOT}{folder}", file)
    stem = file.rsplit(".", 1)[0]
    name = f"{stem}_{AGENT}" if stem in sys.modules or stem in sys.stdlib_module_names else stem
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, f"{ROOT}{entry}"))  # whatever its suffix
    if spec is None or spec.loader is None:
        raise LoadError(f"{entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _check_names(folder: str, entry_file: str) -> None:
    """Refuse names that could not be imported: those of the standard library, parts of which are loaded already."""
    for file in sorted(os.listdir(folder)):
        stem = file.removesuffix(".py")
        if file != entry_file and (stem in sys.stdlib_module_names and (stem != file or _is_package(folder, file))):
            raise LoadError(f"{file} has the name of a module of Python's standard library; give it another")
        if file == f"{RESERVED}.py":
            raise LoadError(f"{file} has a name that is reserved, as the package `{RESERVED}`; give it another")


def _is_package(folder: str, name: str) -> bool:
    return os.path.exists(f"{folder}/{name}/__init__.py")
