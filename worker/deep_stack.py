"""Starts a thread whose stack holds the deepest recursion of native libraries that read what a task sends.

The library of constrained outputs (generation/constraint.py) recurses over the rules of a grammar or the references of
a schema, and a stack that overflows ends the process. The longest chain that a rule of RULE_BYTES_MAX can hold takes
between 16 and 32 MiB, as measured with tests/worker/test_deep_stack.py. The stack is address space, of which only
what is touched takes memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from rota.common.errors import ConfigError

STACK_BYTES: Final = 256 << 20
STACK_BYTES_MIN: Final = 64 << 20

T = TypeVar("T")

_lock: Final = threading.Lock()  # the size is a setting of the whole process


def with_deep_stack(start: Callable[[], T]) -> T:
    """Return what `start` returns; a thread that it starts gets the largest stack that the host grants.

    Raises `ConfigError` if that is below STACK_BYTES_MIN.
    """
    size = STACK_BYTES
    with _lock:
        before = threading.stack_size()
        try:
            while size >= STACK_BYTES_MIN:
                threading.stack_size(size)
                try:
                    return start()
                except RuntimeError:  # "can't start new thread": no address space for it
                    size //= 2
        finally:
            threading.stack_size(before)
    raise ConfigError(
        f"models need a thread with a stack of {STACK_BYTES_MIN} bytes, and this process may not reserve it: raise the "
        "limit of its address space (ulimit -v unlimited)"
    )
