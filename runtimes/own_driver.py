"""The driver of runtimes that are written for Rota, and so need no driver: any module that follows this contract. PURE.

A runtime that is not in the catalog is one. It exports, with the types of an agent (docs/AGENTS.md):

    rota_alloc(size) -> address       free bytes for an input; 0: no room
    rota_load(address, size) -> i64   takes the bytes of the source's main file; address << 32 | length of a text that
                                      says what is wrong with it, empty if it is loaded
    rota_step(address, size) -> i64   one task, as of an agent; of a flow the next message of its call

It may import WASI, and reads further files of the bundle with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.common.errors import CodeError
from rota.runtimes.driver import HostFunction, Interpreter

_M32: Final = 0xFFFF_FFFF


class OwnDriver:
    """See `Driver`."""

    name: Final = "own"
    version: Final = 1
    args: Final = ("runtime",)
    exports: Final = ("rota_alloc", "rota_load", "rota_step")
    imports: Final[Mapping[tuple[str, str], HostFunction]] = {}

    def start(self, guest: Interpreter) -> bytes:
        return b""

    def load(self, guest: Interpreter, note: bytes, entry: str) -> bytes:
        wrong = _call(guest, "rota_load", guest.files[entry])
        if wrong:
            raise CodeError(f"{entry} does not load: {wrong.decode(errors='replace')}")
        return b""

    def step(self, guest: Interpreter, note: bytes, message: bytes) -> bytes:
        return _call(guest, "rota_step", message)


def _call(guest: Interpreter, export: str, data: bytes) -> bytes:
    pointer = guest.call("rota_alloc", len(data))
    if pointer == 0 and data:
        guest.fail("memory", f"rota_alloc returned 0 for {len(data)} bytes")
    guest.write(pointer, data)
    packed = guest.call(export, pointer, len(data))
    return guest.read(packed >> 32, packed & _M32)


DRIVER: Final = OwnDriver()
