"""Event loops for a world without sockets and threads.

Nothing arrives while a task runs, so they know only callbacks and timers. In the loop of an agent, which `asyncio.run`
uses, sleeping moves the task's own clock and takes no time. That of a flow lives over several messages, and stops when
nothing is left to do; a timer is a message.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import Context as Variables
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


class _Idle:
    """In the place of a selector: ends a turn of the loop when nothing is left to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            self._loop.stop()
        return []


class FlowLoop(EventLoop):
    """The loop of one call of a flow. `run_forever` returns when nothing is left to do before the next message."""

    def __init__(self, begin_timer: Callable[[int, asyncio.TimerHandle], None]) -> None:
        """`begin_timer` gets each timer with its delay in milliseconds, 1 or more, and later gives it to `fire`."""
        super().__init__()
        self._selector = _Idle(self)  # type: ignore[assignment]
        self._begin_timer = begin_timer
        self._tasks: list[asyncio.Task[Any]] = []
        self.now_ms = 0  # the call's clock: the latest `now_ms` of its messages

    def time(self) -> float:
        return self.now_ms / 1000

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Variables | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.time() + delay, callback, args, self, context)
        delay_ms = math.ceil(delay * 1000 - 1e-6)  # 70 for 0.07, whose product is a little more
        if delay_ms > 0:
            self._begin_timer(delay_ms, handle)
        else:
            self.fire(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Variables | None = None
    ) -> asyncio.TimerHandle:
        # A sum of seconds since 1970 is known to a quarter of a microsecond.
        return self.call_later(round(when - self.time(), 6), callback, *args, context=context)

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """Run a timer's callback in this turn of the loop, unless it was cancelled."""
        self._ready.append(handle)  # type: ignore[attr-defined]

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        """Make a task of a coroutine, or of a future, as asks are, which other loops refuse."""
        task = super().create_task(_awaited(coro) if asyncio.isfuture(coro) else coro, **more)
        self._tasks.append(task)
        return task

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done, in the order in which they were made."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks


async def _awaited(future: asyncio.Future[Any]) -> Any:
    return await future
