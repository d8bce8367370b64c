"""Threads that prepare code (compile a module, load a model) beside the work; both executors use them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rota.common.errors import CodeError
from rota.common.work import Code

PREPARED_AT_ONCE: Final = 2  # each uses a processor or memory; more are queued


class EndedPreparation(NamedTuple):
    """The end of a preparation: its result, or why the code cannot be used."""

    code: Code
    result: Any
    error: CodeError | None


class Preparations:
    """Used by one thread. `wake` is called in others, when a preparation has ended."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._begun: dict[Code, Callable[[], Callable[[], Any] | None]] = {}  # all that have not been taken
        self._threads: dict[Code, threading.Thread] = {}
        self._made: queue.SimpleQueue[tuple[Code, Any, BaseException | None]] = queue.SimpleQueue()

    def __contains__(self, code: Code) -> bool:
        return code in self._begun

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begin(self, code: Code, find: Callable[[], Callable[[], Any] | None]) -> None:
        """Prepare code, now or when earlier preparations have ended.

        `find` is called then, in this thread: it returns the function to call in another one, which raises `CodeError`
        if the code cannot be used; or None if the code has become ready meanwhile.
        """
        assert code not in self._begun
        self._begun[code] = find
        self._start_threads()

    def take_ended(self) -> list[EndedPreparation]:
        """Return what has ended since the last call. Raises what a preparation raised, other than `CodeError`."""
        ended = []
        while not self._made.empty():
            code, result, error = self._made.get()
            self._threads.pop(code).join()
            del self._begun[code]
            if error is not None and not isinstance(error, CodeError):
                raise error
            ended.append(EndedPreparation(code, result, error))
        self._start_threads()
        return ended

    def close(self) -> None:
        """Wait for the running preparations."""
        self._begun.clear()
        for thread in self._threads.values():
            thread.join()

    def _start_threads(self) -> None:
        for code, find in self._begun.items():
            if len(self._threads) >= PREPARED_AT_ONCE:
                return
            if code not in self._threads:
                prepare = find() or _nothing
                thread = threading.Thread(target=self._run, args=(code, prepare), name="prepare", daemon=True)
                self._threads[code] = thread
                thread.start()

    def _run(self, code: Code, prepare: Callable[[], Any]) -> None:
        try:
            self._made.put((code, prepare(), None))
        except BaseException as error:  # not swallowed: a CodeError is an answer, others are raised by `take_ended`
            self._made.put((code, None, error))
        self._wake()


def _nothing() -> None:
    """The preparation of code that has become ready meanwhile."""
