"""An event loop for a world without sockets and threads, so that `asyncio.run` works in the sandbox.

Nothing arrives while a task runs, so the loop knows only callbacks and timers. Sleeping moves the task's own clock and
takes no time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any


class TimersOnly:
    """In the place of a selector: waits for the next timer, and for nothing else."""

    def select(self, timeout: float | None) -> list[Any]:
        """Sleep for `timeout` seconds. Raises `RuntimeError` if there is no timer: the wait would never end."""
        if timeout is None:
            raise RuntimeError("waits for something that cannot come while a task runs; ask, and return")
        if timeout > 0:
            time.sleep(timeout)
        return []


class EventLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._selector = TimersOnly()

    def _process_events(self, events: list[Any]) -> None:
        assert not events

    def _write_to_self(self) -> None:
        """Wake a selector that waits; ours never does when another thread could ask."""


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = EventLoop
