"""The broker's store of WASM modules: one file per digest.

The shell stores and checks a module before the core gets its deploy, so that a deploy in the journal always names
stored bytes. Files are content-addressed and written once: storing the same bytes again changes nothing, and a deploy
refused later leaves an unreferenced file, which is harmless.
"""

from __future__ import annotations

import os
from pathlib import Path

from rota.common.code_kinds import IS_COMPONENT, IS_MODULE, kind_of
from rota.common.component_binary import check_component, inspect_component
from rota.common.digests import digest
from rota.common.errors import CodeError, StorageFull
from rota.common.messages import Deploy
from rota.common.wasm_module import check_interface, inspect_module
from rota.host.files import private_opener, sync_folder


class ModuleStore:
    """The folder of modules, `<hex digest>.wasm`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def admit(self, request: Deploy) -> None:
        """Check and store the module of a deploy.

        Raises `CodeError` if the module does not fit the deploy, `StorageFull` if it cannot be written.
        """
        code = request.code
        if not kind_of(code).is_kept:
            return  # models are in the GPU workers' repository
        module = request.module if request.module is not None else self._read(code.digest)
        if digest(module) != code.digest:
            raise CodeError(f"{request.name}: the module's digest is not the one that was announced; send it again")
        if kind_of(code).content == IS_MODULE:
            check_interface(inspect_module(module), code.kind, dict(code.exports))
        elif kind_of(code).content == IS_COMPONENT:
            check_component(inspect_component(module))
        self._write(code.digest, module)

    def collect(self, referenced: dict[bytes, None], artefacts: Path) -> tuple[int, int]:
        """Remove unreferenced modules; return how many, and their bytes. No broker may be running on the folder.

        All compiled artefacts are removed: without an engine, their names do not tell whose they are, and workers
        compile again on demand.
        """
        removed = freed = 0
        names = [code.hex() for code in referenced]
        for path in sorted(self._folder.glob("*")):
            kept = path.suffix == ".wasm" and path.stem in names
            if path.suffix in (".wasm", ".draft") and not kept:
                freed += path.stat().st_size
                path.unlink()
                removed += path.suffix == ".wasm"
        if removed:
            for path in sorted(artefacts.glob("*.native")):
                freed += path.stat().st_size
                path.unlink()
        return removed, freed

    def _read(self, code: bytes) -> bytes:
        try:
            return self._path(code).read_bytes()
        except FileNotFoundError:
            raise CodeError(f"no module {code.hex()} is kept here: send its bytes with the deploy") from None

    def _write(self, code: bytes, module: bytes) -> None:
        path = self._path(code)
        if path.exists():
            return
        draft = path.with_suffix(f".{os.getpid()}.draft")
        try:
            with open(draft, "wb", opener=private_opener) as file:
                file.write(module)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(self._folder)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StorageFull(f"{path.parent}: {error.strerror}; free some space and deploy again") from error

    def _path(self, code: bytes) -> Path:
        return self._folder / f"{code.hex()}.wasm"
