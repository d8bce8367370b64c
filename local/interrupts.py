"""Ctrl-C at a moment when nothing is half done.

An exception in the middle of a record would leave a lane between two states. So while a lane works, Ctrl-C only stops
what executes, and `KeyboardInterrupt` is raised when the operation has ended in order. The second one comes at once,
and the lane can no longer be used. Where somebody has a handler of their own, or in another thread than the main one,
nothing is changed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupts:
    """Whether Ctrl-C came during the operation that is going on."""

    def __init__(self, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
        """`stop` is called in the signal handler, `go_on` before the exception is raised."""
        self.came = False
        self.forced = False  # it came twice: an operation was cut off somewhere
        self._stop = stop
        self._go_on = go_on

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Hold Ctrl-C back in the block, and raise it at its end."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.came:
                self.came = False
                self._go_on()
                raise KeyboardInterrupt

    def _note(self, _number: int, _frame: object) -> None:
        if self.came:
            self.forced = True
            raise KeyboardInterrupt
        self.came = True
        self._stop()
