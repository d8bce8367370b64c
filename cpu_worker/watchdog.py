"""The thread that stops a guest from outside: at its timeout, or on an interrupt.

A store traps when the engine's epoch passes the deadline set for the call. The epoch is advanced only when a guest must
stop, so other guests never trap. The watchdog checks what runs every `TICK_MS` and sleeps while nothing does.

It can hit the wrong call: between its check and the advance of the epoch a task can end and the next begin, which is
then stopped instead. So the caller of a stopped task asks `reason_to_stop`; without a reason the task just runs again,
which is safe because a task has no effect before it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal

from wasmtime import Engine

TICK_MS: Final = 10


class EpochWatchdog:
    """Belongs to the executor's thread, except for `interrupt`."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engines: tuple[Engine, ...] = (engine,)
        self._clock = clock
        self._timeout_ms = 0
        self._serial = 0
        self._expired_serial = -1
        self._interrupted = False
        self._active = False
        self._closed = threading.Event()
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rota-watchdog", daemon=True)
        self._thread.start()

    def watch(self, engine: Engine) -> None:
        """Stop the guests of another engine too. Only one guest runs at a time, whatever its engine."""
        self._engines = (*self._engines, engine)

    def begin(self, timeout_ms: int) -> None:
        """Watch a series of tasks, each with this timeout. An earlier interrupt is forgotten."""
        self._timeout_ms = timeout_ms
        self._interrupted = False
        self._serial += 1
        self._active = True
        if not self._running.is_set():
            self._running.set()

    def next_task(self) -> None:
        """Restart the timeout for the next task."""
        self._serial += 1

    def end(self) -> None:
        self._active = (
            False  # the thread goes to sleep by itself: waking it for each series would cost more than a short task
        )

    def interrupt(self) -> None:
        """Stop what runs now; callable from any thread."""
        self._interrupted = True
        self._stop_guest()

    def reason_to_stop(self) -> Literal["interrupted", "timeout"] | None:
        """Return why the running task has to stop; None if it need not."""
        if self._interrupted:
            return "interrupted"
        return "timeout" if self._expired_serial == self._serial else None

    def close(self) -> None:
        self._closed.set()
        self._running.set()
        self._thread.join()

    def _stop_guest(self) -> None:
        for engine in self._engines:
            engine.increment_epoch()

    def _watch(self) -> None:
        serial, since_ms = -1, 0.0
        while True:
            self._running.wait()
            if self._closed.is_set():
                return
            if not self._active:
                self._running.clear()
                if self._active:  # a series began meanwhile and found the thread awake
                    self._running.set()
                continue
            now_ms = self._clock()
            if serial != self._serial:
                serial, since_ms = self._serial, now_ms
            if self._interrupted:
                # Repeated, because the first advance may have come just before the task set its deadline.
                self._stop_guest()
            elif now_ms - since_ms >= self._timeout_ms:
                self._expired_serial = serial
                self._stop_guest()
            self._closed.wait(TICK_MS / 1000)
