"""What a deploy binds and sends: a file or folder of the author becomes a kind, a digest, and bytes by digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.common.bundle import Bundle, decode_bundle, encode_bundle, new_bundle
from rota.common.code_kinds import FLOW_EXPORT, FLOW_KINDS, IS_BUNDLE, KEPT_KINDS, KINDS
from rota.common.component_binary import is_component
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.shown import shown
from rota.common.wasm_module import inspect_module
from rota.common.work import AGENT, COMMAND, COMPONENT, SOURCE
from rota.runtimes.author_files import Given, read_regular
from rota.runtimes.bundles import convert, is_flow, is_source, source_bundle
from rota.runtimes.catalog import RUNTIMES
from rota.runtimes.folder import runtime_bytes

Paths = str | os.PathLike[str]
Parts = Mapping[bytes, Callable[[], bytes]]
"""How to get the bytes behind each digest: a runtime is read only if the other side does not have it."""

_EXTRAS: Final = ("args", "env", "files", "with_", "entry", "runtime")
_WASM: Final = b"\0asm"
_SOURCE_ONLY: Final = ("with_", "entry", "runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a command or a source starts with, as a caller gives it.

    `files`: more files of the guest: bytes, or a path of the host. `with_`: files, folders and wheels beside a source,
    each under its own name, or as a pair (guest path, path of the host). `entry`, `runtime`: see `source_bundle`.
    """

    args: Iterable[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes | Paths] = field(default_factory=dict)
    with_: Iterable[Paths | tuple[str, Paths]] = ()
    entry: str = ""
    runtime: str = ""

    def named(self) -> list[str]:
        """Return the names of those that were given."""
        return [name for name in _EXTRAS if getattr(self, name)]


def extras_of(given: Any) -> Extras:
    """Return the extras among the options of a deploy, whose types were checked."""
    return Extras(**{name: getattr(given, name) for name in _EXTRAS})


class Content(NamedTuple):
    """What a deploy binds: its kind, its digest, how to get the bytes behind each digest that it needs, and whether it
    is a flow.
    """

    kind: str
    digest: bytes
    parts: Parts
    flow: bool = False


def content_of(
    module: Paths | bytes, kind: str | None, extras: Extras, roles: Iterable[str] = (), flow: bool | None = None
) -> Content:
    """Return what a deploy of a file, folder or module binds. `kind` None: found by what it is. `roles`: those that the
    deploy names exports for. `flow` None: a source whose main file has a `flow` and no `agent` is one, and so is an
    agent that exports FLOW_EXPORT.

    Raises `CodeError` for what cannot be deployed, and when its part is asked for `ConfigError` for a runtime that was
    not fetched.
    """
    found = _content_of(module, kind, extras, roles)
    if flow is None:
        return found
    if flow and not KINDS[found.kind].may_flow:
        raise CodeError(f"code of kind {found.kind} cannot be a flow: only one of kind {' or '.join(FLOW_KINDS)}")
    return found._replace(flow=flow)


def _content_of(module: Paths | bytes, kind: str | None, extras: Extras, roles: Iterable[str]) -> Content:
    """Return what a deploy binds, a flow if it looks like one.

    A folder, a file with the suffix of a language, and a file that is no WASM if `runtime` is given are a source; of
    WASM, a component is a component, a module with `_start` and without `rota_step`, and one with the role `start`, a
    command, all else an agent. Bytes of kind source, and of kind command if they are no WASM, are a bundle that was
    made before, whose program must be there already.
    """
    if not isinstance(module, bytes | str | os.PathLike):
        raise CodeError(f"module={shown(module)}: give the path of a file or folder, or the bytes of a module")
    if kind is not None and kind not in KEPT_KINDS:
        raise CodeError(f"kind {shown(kind)}: code is one of {', '.join(KEPT_KINDS)}; models go with deploy_model")
    path = None if isinstance(module, bytes) else Path(module)
    if kind is None and path is not None and is_source(path):
        kind = SOURCE
    if kind == SOURCE and path is not None:
        return _source(path, extras)
    data = module if isinstance(module, bytes) else read_regular(Path(module), "the module")
    if kind is None and path is not None and not data.startswith(_WASM):
        if extras.runtime:
            return _source(path, extras)
        if data.lstrip()[:1] in (b"(", b";"):
            inspect_module(data)  # says what to do with WebAssembly as text
        raise CodeError(
            f"{path.name} is neither WebAssembly nor by its suffix a source ({_known_suffixes()}): if it is a source, "
            f"say of what with --runtime ({', '.join(RUNTIMES)})",
            path=str(path),
        )
    if kind == SOURCE or (kind == COMMAND and path is None and not data.startswith(_WASM)):
        return _made(data, kind, extras)
    if kind is None:
        kind = COMMAND if "start" in roles and not is_component(data) else kind_of_wasm(data)
    wrong = [name for name in extras.named() if KINDS[kind].content != IS_BUNDLE or name in _SOURCE_ONLY]
    if wrong:
        what = "a source" if wrong[0] in _SOURCE_ONLY else "a command or a source"
        raise CodeError(
            f"{wrong[0].rstrip('_')} is for {what}, and this is of kind {kind}: leave it out, or name the kind"
        )
    if kind == COMMAND:
        found = new_bundle(digest(data), args=extras.args, env=extras.env, files=_more_files(extras))
        return _content(COMMAND, found, lambda: data)
    return Content(kind, digest(data), {digest(data): lambda: data}, kind == AGENT and _says_flow(data))


def content_like(kind: str, bundle: Bundle | None, module: Paths | bytes) -> Content:
    """Return content of a kind that takes the place of other content; `bundle`: that, if it was one.

    Of a command's bundle the program is replaced, of a source's the main file, or by a folder all files.
    """
    if bundle is None:
        return content_of(module, kind, Extras())
    if KINDS[kind].has_entry:
        if not isinstance(module, bytes) and Path(module).is_dir():
            return content_of(module, kind, Extras(args=bundle.args, env=dict(bundle.env)))
        data = module if isinstance(module, bytes) else read_regular(Path(module), "the module")
        _, data = convert(bundle.module, "" if isinstance(module, bytes) else Path(module).name, data)
        files = {**dict(bundle.files), bundle.entry: data}
        new = new_bundle(bundle.module, entry=bundle.entry, args=bundle.args, env=dict(bundle.env), files=files)
        encoded = encode_bundle(new)
        return Content(kind, digest(encoded), {digest(encoded): lambda: encoded})
    data = module if isinstance(module, bytes) else read_regular(Path(module), "the module")
    return _content(kind, bundle._replace(module=digest(data)), lambda: data)


def kind_of_wasm(data: bytes) -> str:
    """Return the kind that WASM bytes are deployed as if nothing else is said. Raises `CodeError` for other bytes."""
    if is_component(data):
        return COMPONENT
    exports = inspect_module(data).exports
    return COMMAND if "_start" in exports and "rota_step" not in exports else AGENT


def _says_flow(data: bytes) -> bool:
    """Return whether a module exports the mark of a flow; of one that is none, the deploy says what it is instead."""
    try:
        return FLOW_EXPORT in inspect_module(data).exports
    except CodeError:
        return False


def _known_suffixes() -> str:
    return " ".join([suffix for one in RUNTIMES.values() for suffix in one.suffixes])


def _source(path: Path, extras: Extras) -> Content:
    found = source_bundle(
        path,
        with_=[_given(one) for one in extras.with_],
        entry=extras.entry,
        runtime=extras.runtime,
        args=extras.args,
        env=extras.env,
        files=_more_files(extras),
    )
    return _content(SOURCE, found.bundle, lambda: runtime_bytes(found.runtime))


def _made(data: bytes, kind: str, extras: Extras) -> Content:
    if extras.named():
        name = extras.named()[0].rstrip("_")
        raise CodeError(f"{name} is for what a bundle is made of, and this is one: leave it out")
    bundle = decode_bundle(data)
    return Content(kind, digest(data), {digest(data): lambda: data}, kind == SOURCE and is_flow(bundle))


def _content(kind: str, bundle: Bundle, program: Callable[[], bytes]) -> Content:
    data = encode_bundle(bundle)
    parts = {bundle.module: program, digest(data): lambda: data}
    return Content(kind, digest(data), parts, kind == SOURCE and is_flow(bundle))


def _given(one: Any) -> Given:
    if isinstance(one, str | os.PathLike):
        return Given(Path(one))
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
        return Given(Path(one[1]), one[0])
    raise CodeError(f"with_={shown(one)}: give a path, or a pair (guest path, path)")


def _more_files(extras: Extras) -> dict[str, bytes]:
    return {
        place: given if isinstance(given, bytes) else read_regular(Path(given)) for place, given in extras.files.items()
    }
