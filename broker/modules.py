"""The broker's store of code: modules, components and bundles, one file per digest.

A producer brings bytes with a Keep, ahead of the deploy that names them. The shell checks a deploy against what is
stored before the core gets it, so a deploy in the journal always names stored bytes, and a bundle a stored program.
Files are content-addressed and written once; what no deploy names is harmless, and `collect` removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from rota.common.bundle import Bundle, decode_bundle, may_be_bundle
from rota.common.code_kinds import IS_BUNDLE, IS_COMPONENT, IS_MODULE, content_file, kind_of
from rota.common.component_binary import check_component, inspect_component
from rota.common.digests import digest
from rota.common.errors import CodeError, NotKept, StorageFull
from rota.common.wasm_module import check_interface, check_roles, inspect_module
from rota.common.work import Code
from rota.host.files import private_opener, sync_folder

_SUFFIXES: Final = (".wasm", ".bundle")
_ARTEFACT_SUFFIXES: Final = (".native", ".program", ".base", ".image")  # of compiled code and images of sources
_WASM: Final = b"\0asm"


class ModuleStore:
    """The folder of modules, components and bundles; `content_file` names the files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, named: bytes, data: bytes) -> None:
        """Store bytes under their digest; a damaged file of that name is replaced.

        Raises `CodeError` if they have another digest or are no code, `StorageFull` if they cannot be written.
        """
        if digest(data) != named:
            raise CodeError("the digest of the code is not the one that was announced; send it again")
        content = IS_MODULE
        if may_be_bundle(data):
            content = IS_BUNDLE
            decode_bundle(data)
        elif not data.startswith(_WASM):
            inspect_module(data)  # says what these bytes are instead
        self._write(named, content, data)

    def bring(self, name: str, code: Code, parts: Mapping[bytes, Callable[[], bytes]]) -> None:
        """Check the code of a deploy, and store those of its parts that are not here. Raises as `keep` and `admit`."""
        left = dict(parts)
        while True:
            try:
                self.admit(name, code)
                return
            except NotKept as error:
                missing = [bytes.fromhex(one) for one in error.fields["missing"]]
                if any(one not in left for one in missing):
                    raise
            for one in missing:
                self.keep(one, left.pop(one)())

    def bundle(self, named: bytes) -> Bundle:
        """Return a stored bundle. Raises `CodeError` if it is not here."""
        return decode_bundle(self._read(named, IS_BUNDLE))

    def admit(self, name: str, code: Code) -> None:
        """Check the stored bytes of a deploy.

        Raises `NotKept` if they, or the program of a bundle, are not here, `CodeError` if they do not fit the deploy.
        """
        kind = kind_of(code)
        if code.flow and code.reuse:
            raise CodeError(
                f"{name}: reuse is not for a flow, since each call has an instance of its own; leave it out", name=name
            )
        if not kind.is_kept:
            return  # models are in the GPU workers' repository
        if code.reuse and not kind.may_reuse:
            raise CodeError(
                f"{name}: reuse is not for kind {kind.name}: its program keeps caches, so a second call would take "
                "other fuel than the first; leave it out",
                name=name,
            )
        check_roles(kind, dict(code.exports))
        data = self._read(code.digest, kind.content)
        if kind.content == IS_BUNDLE:
            self._check_bundle(name, code, decode_bundle(data))
        elif kind.content == IS_COMPONENT:
            check_component(inspect_component(data))
        else:
            check_interface(inspect_module(data), kind.name, dict(code.exports))

    def collect(self, modules: Iterable[bytes], bundles: Iterable[bytes], artefacts: Path) -> tuple[int, int]:
        """Remove all but these modules, components and bundles, and the programs of these bundles.

        Returns how many files were removed, and their bytes. No broker may be running on the folder. All compiled
        artefacts go with the first removed file: without an engine, their names do not tell whose they are, and workers
        compile again on demand.
        """
        named = dict.fromkeys(bundles)
        kept = [content_file(one, IS_BUNDLE) for one in named]
        kept += [content_file(one, IS_MODULE) for one in dict.fromkeys([*modules, *programs(self._folder, named)])]
        removed = freed = 0
        for path in sorted(self._folder.glob("*")):
            if path.suffix in (*_SUFFIXES, ".draft") and path.name not in kept:
                freed += path.stat().st_size
                path.unlink()
                removed += path.suffix in _SUFFIXES
        if removed:
            for path in sorted(artefacts.glob("*")):
                if path.suffix not in _ARTEFACT_SUFFIXES:
                    continue
                freed += path.stat().st_size
                path.unlink()
        return removed, freed

    def _check_bundle(self, name: str, code: Code, bundle: Bundle) -> None:
        kind = kind_of(code)
        if bool(bundle.entry) != kind.has_entry:
            wants = "names its main file" if kind.has_entry else "has no entry"
            raise CodeError(f"{name}: a bundle of kind {kind.name} {wants}, and this one's is {bundle.entry!r}")
        if kind.roles:
            check_interface(inspect_module(self._read(bundle.module, IS_MODULE)), kind.name, dict(code.exports))
        elif not (self._folder / content_file(bundle.module, IS_MODULE)).exists():
            raise _not_kept(bundle.module, "runtime")  # what it exports is between the worker and a driver

    def _read(self, named: bytes, content: str) -> bytes:
        try:
            data = (self._folder / content_file(named, content)).read_bytes()
        except FileNotFoundError:
            data = b""
        if digest(data) != named:
            raise _not_kept(named, content)
        return data

    def _write(self, named: bytes, content: str, data: bytes) -> None:
        path = self._folder / content_file(named, content)
        if path.exists() and path.read_bytes() == data:
            return
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            with open(draft, "wb", opener=private_opener) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(self._folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StorageFull(f"{path.parent}: {error.strerror}; free some space and deploy again") from error


def programs(folder: Path, bundles: Iterable[bytes]) -> dict[bytes, None]:
    """Return the digests of the programs that bundles of a folder of modules name, in order.

    A bundle that is missing or damaged is left out: without it nobody can tell, or run, its program.
    """
    found: dict[bytes, None] = {}
    for named in bundles:
        try:
            data = (folder / content_file(named, IS_BUNDLE)).read_bytes()
            if digest(data) == named:
                found[decode_bundle(data).module] = None
        except (OSError, CodeError):
            continue
    return found


def _not_kept(named: bytes, what: str) -> NotKept:
    return NotKept(f"the {what} {named.hex()} is not kept here: send its bytes first", missing=[named.hex()])
