"""Stops a run of ONNX Runtime from outside: at its timeout, or when the worker is told to stop.

One thread serves all runs of an executor; a timer thread per run would cost more than a small model. A run is *armed*
before the library is called and *disarmed* after. The thread is woken only if it would sleep past a new deadline, so
arming costs a lock and a comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import onnxruntime

from rota.common.limits import STUCK_MS

Stopped = Literal["timeout", "interrupted"]

# Set to its default, 0: looking up an entry that is not set costs every run with an IO binding a C++ exception, 40 µs.
_GRAPH_ENTRY: Final = "gpu_graph_id"


class RunWatchdog:
    """Arms and disarms runs, from one thread; `interrupt` may be called from any."""

    def __init__(self, stuck: Callable[[], None] | None = None) -> None:
        """`stuck` is called in the watchdog's thread when a run has not ended STUCK_MS after its timeout.

        `disarm` waits until `stuck` has returned.
        """
        self._stuck = stuck
        self._expired: Any = None  # options of the run that timed out
        self._changed = threading.Condition()
        self._options: Any = None  # of the armed run
        self._clean: Any = None  # reusable options; those that stopped a run stay set and are dropped
        self._deadline_s = 0.0
        self._wakes_at_s = 0.0  # when the thread next wakes by itself; infinite while idle
        self._stopped: Stopped | None = None
        self._in_fold = False
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="rota-model-watchdog", daemon=True)
        self._thread.start()

    def begin_fold(self) -> None:
        """Accept interrupts until `end_fold`; an earlier one was for another fold."""
        with self._changed:
            self._in_fold = True
            self._stopped = None

    def end_fold(self) -> None:
        with self._changed:
            self._in_fold = False
            self._stopped = None

    def interrupted(self) -> bool:
        """Return whether this fold was interrupted."""
        return self._stopped == "interrupted"

    def arm(self, timeout_ms: int) -> Any:
        """Return run options; the run that uses them is terminated after `timeout_ms` or on an interrupt."""
        with self._changed:
            options = self._options = self._clean = self._clean or _run_options()
            if self._stopped == "interrupted":
                self._terminate()
            else:
                self._stopped = None
            self._deadline_s = time.monotonic() + timeout_ms / 1000
            if self._deadline_s < self._wakes_at_s:
                self._changed.notify()
        return options

    def disarm(self) -> Stopped | None:
        """End the watch; return why the run was told to stop, if it was. It may have finished nevertheless."""
        with self._changed:
            self._options = self._expired = None
            return self._stopped

    def interrupt(self) -> None:
        """Stop the running fold; does nothing between folds."""
        with self._changed:
            if self._in_fold:
                self._stop("interrupted")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _stop(self, why: Stopped) -> None:
        self._stopped = why
        if self._options is not None:
            self._terminate()

    def _terminate(self) -> None:
        self._options.terminate = True
        self._clean = None

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left_s = self._deadline_s - time.monotonic()
                if self._expired is not None and left_s <= 0:
                    self._expired = None
                    if self._stuck is not None:
                        self._stuck()
                elif self._expired is not None:
                    self._wakes_at_s = self._deadline_s
                    self._changed.wait(left_s)
                elif self._options is None:
                    self._wakes_at_s = float("inf")
                    self._changed.wait()
                elif left_s > 0:
                    self._wakes_at_s = self._deadline_s
                    self._changed.wait(left_s)
                else:
                    if self._stopped is None:
                        self._stop("timeout")
                        self._expired = self._options
                        self._deadline_s += STUCK_MS / 1_000
                    self._options = None


def _run_options() -> Any:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # errors become outcomes, which have the text
    options.add_run_config_entry(_GRAPH_ENTRY, "0")
    return options
