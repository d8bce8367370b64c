"""Floats as the specification has them, whatever this thread was set to.

Rounding and the treatment of tiny numbers are settings of the processor, one per thread. A library that was compiled
for speed changes them for whoever loads it, and a guest would compute with them: another result on this host than on
others. So a fold runs with the defaults, and the thread gets back what it had.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

_ENVIRONMENT_BYTES: Final = 512  # of C's fenv_t: 32 on x86-64, 8 on aarch64
_DEFAULT: Final = ctypes.c_void_p(-1)  # FE_DFL_ENV of the C libraries on Linux


class FloatEnvironment:
    """Belongs to one thread. Does nothing where it is not known how (not on Linux)."""

    def __init__(self) -> None:
        self._saved = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        self._address = ctypes.c_void_p(ctypes.addressof(self._saved))
        self._get, self._set = _calls()

    def begin(self) -> None:
        """Compute with the defaults from now on."""
        self._get(self._address)
        self._set(_DEFAULT)

    def end(self) -> None:
        """Compute as before."""
        self._set(self._address)


def _calls() -> tuple[Any, Any]:
    """Return `fegetenv` and `fesetenv`, which live in a library of their own or in that of C."""
    if sys.platform != "linux":
        return _nothing, _nothing
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)  # keeps the interpreter's lock: such calls take no time
            return library.fegetenv, library.fesetenv
        except (OSError, AttributeError):
            continue
    return _nothing, _nothing


def _nothing(_environment: ctypes.c_void_p) -> None:
    pass
