"""Sets the floating-point environment to the IEEE 754 defaults while code of users is computed.

Rounding mode and flush-to-zero are per-thread settings of the processor. Loading a library compiled with -ffast-math
can change them, and a guest or a model would then give other results on this host. So both run with the defaults, and
the thread's settings are restored afterwards. On Linux a new thread starts with those of its maker.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, Final

_ENVIRONMENT_BYTES: Final = 512  # of C's fenv_t: 32 on x86-64, 8 on aarch64
_DEFAULT: Final = ctypes.c_void_p(-1)  # FE_DFL_ENV of the C libraries on Linux


class FloatEnvironment:
    """Belongs to one thread; also a context manager. Does nothing except on Linux."""

    def __init__(self) -> None:
        self._saved = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        self._address = ctypes.c_void_p(ctypes.addressof(self._saved))
        self._get, self._set = _calls()

    def begin(self) -> None:
        """Set the defaults."""
        self._get(self._address)
        self._set(_DEFAULT)

    def end(self) -> None:
        """Restore the settings from before `begin`."""
        self._set(self._address)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()


@functools.cache
def _calls() -> tuple[Any, Any]:
    """Return `fegetenv` and `fesetenv`, from libm or libc."""
    if sys.platform != "linux":
        return _nothing, _nothing
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)  # keeps the interpreter lock, since the calls are short
            return library.fegetenv, library.fesetenv
        except (OSError, AttributeError):
            continue
    return _nothing, _nothing


def _nothing(_environment: ctypes.c_void_p) -> None:
    pass
