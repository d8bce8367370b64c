"""One task as a WASI process. PURE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rota.common.wasi_imports import WASI_IMPORTS
from rota.wasi.errno import ENOSYS
from rota.wasi.program import Program


class ProcessExit(Exception):
    """The process ends with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class FreezeReached(Exception):
    """The process asked to be stopped here, with a note. Only while an image is made."""

    def __init__(self, note: bytes) -> None:
        super().__init__(note)
        self.note = note


class Process:
    """The descriptors, files, clock and chance of one task."""

    def __init__(
        self,
        program: Program,
        *,
        now_ms: int,
        entropy: bytes,
        memory_bytes: int,
        stdin: bytes = b"",
        stdout_bytes_max: int | None = None,
        log: Callable[[int, bytes], None],
        freezes: bool = False,
    ) -> None:
        """Start. Streams that are not kept are passed to `log`, with their descriptor."""

    def stdout(self) -> bytes:
        return b""

    def close(self) -> None:
        """Release the files."""


def _missing(*_: Any) -> int:
    return ENOSYS


WASI_FUNCTIONS: Final[Mapping[str, Callable[..., int | None]]] = dict.fromkeys(WASI_IMPORTS, _missing)
