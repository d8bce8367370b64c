"""A WASI process with a plain memory in the place of a guest: the functions called as a guest would call them."""

from __future__ import annotations

import struct
from typing import Any

from rota.wasi.functions import WASI_FUNCTIONS, call_function
from rota.wasi.process import Process
from rota.wasi.program import program_of

ROOT = 3  # the descriptor of `/`
PATH_AT, PATH_TOO_AT, OUT_AT, DATA_AT = 0x100, 0x1100, 0x2100, 0x3000
ALL_RIGHTS = (1 << 28) - 1


class FuelSpent(Exception):
    """As the host raises it, when a guest has no fuel left."""


class MemoryGuest:
    """Memory and fuel, as functions see them."""

    def __init__(self, pages: int, fuel: int) -> None:
        self.memory = bytearray(pages << 16)
        self.fuel = fuel

    def read(self, pointer: int, size: int) -> bytes | None:
        return None if pointer + size > len(self.memory) else bytes(self.memory[pointer : pointer + size])

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        if pointer + len(data) > len(self.memory):
            return False
        self.memory[pointer : pointer + len(data)] = data
        return True

    def memory_bytes(self) -> int:
        return len(self.memory)

    def charge(self, fuel: int) -> None:
        self.fuel -= fuel
        if self.fuel <= 0:
            raise FuelSpent


class WasiKit:
    """One process, its guest, and calls by the names of WASI."""

    def __init__(self, files: dict[str, bytes] | None = None, *, pages: int = 16, **settings: Any) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.guest = MemoryGuest(pages, settings.pop("fuel", 1 << 40))
        values: dict[str, Any] = {"now_ms": 1_700_000_000_000, "entropy": bytes(32), "memory_bytes": 8 << 20}
        program = program_of(settings.pop("args", ()), settings.pop("env", ()), (files or {}).items())
        self.process = Process(program, log=lambda *line: self.log.append(line), **{**values, **settings})

    def call(self, name: str, *values: int) -> int:
        return call_function(WASI_FUNCTIONS[name], self.process, self.guest, values)

    def word(self, pointer: int = OUT_AT) -> int:
        return int(struct.unpack_from("<I", self.guest.memory, pointer)[0])

    def long(self, pointer: int = OUT_AT) -> int:
        return int(struct.unpack_from("<Q", self.guest.memory, pointer)[0])

    def path(self, path: str, at: int = PATH_AT) -> tuple[int, int]:
        encoded = path.encode()
        self.guest.memory[at : at + len(encoded)] = encoded
        return at, len(encoded)

    def open(self, path: str, how: int = 0, *, folder: int = ROOT, flags: int = 0, follow: bool = True) -> int:
        """Return the new descriptor, or the errno as a negative number."""
        rights = ALL_RIGHTS if how & 1 or how & 8 else ALL_RIGHTS & ~(1 << 6)
        errno = self.call("path_open", folder, int(follow), *self.path(path), how, rights, ALL_RIGHTS, flags, OUT_AT)
        return -errno if errno else self.word()

    def on_path(self, name: str, path: str, *before: int, folder: int = ROOT, after: tuple[int, ...] = ()) -> int:
        """Call a path function with one path."""
        return self.call(name, folder, *before, *self.path(path), *after)

    def write(self, number: int, data: bytes) -> int:
        """Return how many bytes were written, or the errno as a negative number."""
        struct.pack_into("<II", self.guest.memory, PATH_TOO_AT, DATA_AT, len(data))
        self.guest.memory[DATA_AT : DATA_AT + len(data)] = data
        errno = self.call("fd_write", number, PATH_TOO_AT, 1, OUT_AT)
        return -errno if errno else self.word()

    def read(self, number: int, size: int = 4096) -> bytes:
        struct.pack_into("<II", self.guest.memory, PATH_TOO_AT, DATA_AT, size)
        errno = self.call("fd_read", number, PATH_TOO_AT, 1, OUT_AT)
        assert errno == 0, errno
        return bytes(self.guest.memory[DATA_AT : DATA_AT + self.word()])

    def make(self, path: str, data: bytes) -> None:
        number = self.open(path, 1)
        assert number > 0, number
        assert self.write(number, data) == len(data)
        assert self.call("fd_close", number) == 0

    def names(self, folder: int = ROOT, size: int = 4096) -> list[str]:
        """Return the names in a folder but `.` and `..`, read with a buffer of this size."""
        found: list[str] = []
        cookie = 0
        while True:
            assert self.call("fd_readdir", folder, DATA_AT, size, cookie, OUT_AT) == 0
            used = self.word()
            at, end = DATA_AT, DATA_AT + used
            while at + 24 <= end:
                following, _, length = struct.unpack_from("<QQI", self.guest.memory, at)
                if at + 24 + length > end:
                    break
                found.append(self.guest.memory[at + 24 : at + 24 + length].decode())
                cookie = following
                at += 24 + length
            if used < size:
                return [name for name in found if name not in (".", "..")]
