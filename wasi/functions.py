"""All functions of WASI preview 1, by name: (process, guest, *unsigned integers) -> errno. PURE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from rota.common.wasi_imports import WASI_IMPORTS
from rota.wasi import fd_functions, path_functions, process_functions
from rota.wasi.costs import CALL_FUEL
from rota.wasi.errno import Refusal
from rota.wasi.guest_access import GuestAccess
from rota.wasi.process import Process

Function = Callable[..., int]


_MODULES: Final = {"fd": fd_functions, "path": path_functions}  # by the first part of a function's name

WASI_FUNCTIONS: Final[Mapping[str, Function]] = {
    name: getattr(_MODULES.get(name.split("_")[0], process_functions), name) for name in WASI_IMPORTS
}


def call_function(function: Function, process: Process, guest: GuestAccess, values: tuple[int, ...]) -> int:
    """Call one of them for a guest: charge for the call, and return its errno.

    Raises what ends the guest: `ProcessExit`, `FreezeReached`, and what `guest.charge` raises.
    """
    guest.charge(CALL_FUEL)
    try:
        return function(process, guest, *values)
    except Refusal as refusal:
        return refusal.errno
