"""Runs the calls of one fold: instance, fuel, memory, tensors, and what to do when a guest is stopped.

By default each call gets a fresh instance, so nothing leaks from one task into the next. Code that was deployed with
`reuse` keeps its instance between calls and folds, until it fails: after a trap its memory is in an unknown state.
Everything a guest does ends as bytes, as `GuestFault` (the inputs force it) or as `GuestStopped` (they do not).
"""

from __future__ import annotations

from collections.abc import Sequence

from wasmtime import Engine, Linker

from rota.common.work import Code, TensorRef
from rota.cpu_worker.guest import Guest, GuestFault, GuestStopped, PreparedCode
from rota.cpu_worker.profile import REUSED_INSTANCES_MAX
from rota.cpu_worker.public_call import PublicGuest
from rota.cpu_worker.raw_call import RawGuest
from rota.cpu_worker.tensor_access import TensorAccess, TensorReader
from rota.cpu_worker.watchdog import Watchdog


class Sandbox:
    """Belongs to one thread: `begin`, any number of `call`, `end`. `fuel_used`, `answer_bytes`: of the last call."""

    def __init__(self, engine: Engine, watchdog: Watchdog, tensors: TensorReader | None, *, raw_calls: bool) -> None:
        self._engine = engine
        self._watchdog = watchdog
        self._tensors = TensorAccess(tensors)
        self._guest_type: type[RawGuest] | type[PublicGuest] = RawGuest if raw_calls else PublicGuest
        self._reused: dict[Code, Guest] = {}
        self._kept: Guest | None = None
        self.linker = Linker(engine)
        self._tensors.define(self.linker)
        self.fuel_used = 0
        self.answer_bytes = 0

    def begin(self, prepared: PreparedCode, code: Code) -> None:
        """Start a fold; its instance comes back if its code is one that keeps it."""
        self._prepared = prepared
        self._code = code
        self._kept = self._reused.pop(code, None) if code.reuse else None
        self._watchdog.begin(code.limits.timeout_ms)

    def call(self, data: bytes, tensors: Sequence[TensorRef]) -> bytes:
        """Run one task and return what the guest answers.

        Raises `GuestFault` or `GuestStopped`. A guest that was stopped for no reason of its own runs again (see
        watchdog.py).
        """
        while True:
            self._watchdog.next_task()
            try:
                return self._call_once(data, tensors)
            except GuestStopped as stopped:
                if stopped.why == "refused" or self._watchdog.reason_to_stop() is not None:
                    raise

    def end(self) -> None:
        """End a fold. The instance that was used longest ago makes room for the one that is kept."""
        self._watchdog.end()
        if self._kept is not None:
            self._reused[self._code] = self._kept
            self._kept = None
            if len(self._reused) > REUSED_INSTANCES_MAX:
                self._reused.pop(next(iter(self._reused))).close()

    def close(self) -> None:
        for guest in self._reused.values():
            guest.close()
        self._reused.clear()
        self.linker.close()

    def _call_once(self, data: bytes, tensors: Sequence[TensorRef]) -> bytes:
        self.fuel_used = self.answer_bytes = 0
        limits = self._code.limits
        guest = self._kept or self._guest_type(self._engine, self._prepared, memory_bytes=limits.memory_bytes)
        self._kept = None
        try:
            answer = (
                self._call_with_tensors(guest, data, tensors) if tensors else guest.call(data, fuel=limits.fuel + 1)
            )
            left = guest.fuel_left()
            if not left:
                # The engine looks at the fuel when a function or a loop starts, so the end of a call may run over.
                # One unit
                # more than the limit, of which one must be left, makes the limit exact.
                raise GuestFault("fuel", f"out of fuel in {self._prepared.call}")
        except (GuestFault, GuestStopped):
            self.fuel_used = min(limits.fuel, limits.fuel + 1 - guest.fuel_left())
            guest.close()
            raise
        self.fuel_used = limits.fuel + 1 - left
        self.answer_bytes = len(answer)
        if self._code.reuse:
            self._kept = guest
        else:
            guest.close()
        return answer

    def _call_with_tensors(self, guest: Guest, data: bytes, tensors: Sequence[TensorRef]) -> bytes:
        """Call with tensors in reach; one that this host cannot read outweighs whatever the guest made of that."""
        self._tensors.begin(guest, tensors)
        try:
            answer = guest.call(data, fuel=self._code.limits.fuel + 1)
            if self._tensors.fault:
                raise GuestStopped("refused", self._tensors.fault)
        except GuestFault:
            if self._tensors.fault:
                raise GuestStopped("refused", self._tensors.fault) from None
            raise
        finally:
            self._tensors.end()
        return answer
