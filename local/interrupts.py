"""Delays Ctrl-C to the end of an operation.

An exception in the middle of a record would leave a lane in an inconsistent state. So while a lane works, Ctrl-C only
stops what executes, and `KeyboardInterrupt` is raised at the end of the operation. A second Ctrl-C is raised at once;
the lane cannot be used afterwards. With another SIGINT handler, or outside the main thread, nothing is changed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupts:
    """Whether Ctrl-C came during the current operation."""

    def __init__(self, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
        """`stop` is called in the signal handler, `go_on` before the exception is raised."""
        self.came = False
        self.forced = False  # it came twice, so an operation was cut off
        self._stop = stop
        self._go_on = go_on

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Delay Ctrl-C in the block to its end."""
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
