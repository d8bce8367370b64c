"""The one thread that stops a guest from outside: by the wall clock, or because somebody asked.

A store traps when the engine's epoch passes the deadline that was set for the call. The epoch moves only when a guest
must stop, so a healthy guest never meets it. The watchdog looks at what runs every `TICK_MS` and sleeps while nothing
does.

It may be late by one call: between its look and its step a task can end and the next begin, which is then stopped
instead. So whoever was stopped asks `reason_to_stop`; with none, the task simply runs again, which cannot be seen (a
task has no effect before it has ended).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal

from wasmtime import Engine

TICK_MS: Final = 10


class Watchdog:
    """Belongs to the executor's thread, except for `interrupt`."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
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

    def begin(self, timeout_ms: int) -> None:
        """Watch a row of tasks, each with this limit. An interrupt from before is forgotten."""
        self._timeout_ms = timeout_ms
        self._interrupted = False
        self._serial += 1
        self._active = True
        if not self._running.is_set():
            self._running.set()

    def next_task(self) -> None:
        """Start the clock of a task anew."""
        self._serial += 1

    def end(self) -> None:
        self._active = (
            False  # the thread goes to sleep by itself: waking it for each row would cost more than a short task
        )

    def interrupt(self) -> None:
        """Stop what runs now; from any thread."""
        self._interrupted = True
        self._engine.increment_epoch()

    def reason_to_stop(self) -> Literal["interrupted", "timeout"] | None:
        """Say why the running task has to stop, if it has to."""
        if self._interrupted:
            return "interrupted"
        return "timeout" if self._expired_serial == self._serial else None

    def close(self) -> None:
        self._closed.set()
        self._running.set()
        self._thread.join()

    def _watch(self) -> None:
        serial, since_ms = -1, 0.0
        while True:
            self._running.wait()
            if self._closed.is_set():
                return
            if not self._active:
                self._running.clear()
                if self._active:  # a row began in between and found the thread awake
                    self._running.set()
                continue
            now_ms = self._clock()
            if serial != self._serial:
                serial, since_ms = self._serial, now_ms
            if self._interrupted:
                # Again and again: the first step may have come just before the task set its own deadline.
                self._engine.increment_epoch()
            elif now_ms - since_ms >= self._timeout_ms:
                self._expired_serial = serial
                self._engine.increment_epoch()
            self._closed.wait(TICK_MS / 1000)
