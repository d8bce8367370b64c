"""Where the broker keeps WASM modules: one file per digest.

The shell stores and checks a module before the core hears of its deploy, so that a Deploy in the journal always names
bytes that are there. Content-addressed and written once: storing the same bytes again changes nothing, and a deploy
that is refused later leaves a file that nobody names, which is harmless.
"""

from __future__ import annotations

import os
from pathlib import Path

from rota.common.code_kinds import kind_of
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
        """Check and keep the module that a deploy brings.

        Raises `CodeError` if the module cannot be what the deploy says, `StorageFull` if it cannot be written.
        """
        code = request.code
        if not kind_of(code).is_module:
            return  # models are kept by the GPU workers' repository
        module = request.module if request.module is not None else self._read(code.digest)
        if digest(module) != code.digest:
            raise CodeError(f"{request.name}: the module's digest is not the one that was announced; send it again")
        check_interface(inspect_module(module), code.kind, dict(code.exports))
        self._write(code.digest, module)

    def collect(self, referenced: dict[bytes, None], artefacts: Path) -> tuple[int, int]:
        """Remove modules that nothing refers to; return how many, and their bytes. No broker may work in the folder.

        Their compiled forms go with all others: names of artefacts tell nothing to who has no engine, and workers make
        them again when they need them.
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
