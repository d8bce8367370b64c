"""Runs the calls of one fold: instance, fuel, memory, tensors, and stopped guests.

By default each call gets a fresh instance, so nothing leaks from one task into the next. Code deployed with `reuse`
keeps its instance between calls and folds until it fails (after a trap the memory is in an unknown state) or its memory
grows (the next task would have more room than in a fresh instance). A call ends in bytes, `GuestFault` (which follows
from the inputs) or `GuestStopped` (which does not).
"""

from __future__ import annotations

from wasmtime import Engine

from rota.common.work import Code, TensorRef
from rota.cpu_worker.component_guest import ComponentGuest, PreparedComponent
from rota.cpu_worker.guest import Guest, GuestExit, GuestFault, GuestStopped, PreparedCode
from rota.cpu_worker.guest_memory import GuestMemories
from rota.cpu_worker.host_calls import HostCalls, TaskFacts
from rota.cpu_worker.host_limits import REUSED_BYTES_MAX, REUSED_INSTANCES_MAX
from rota.cpu_worker.image_guest import ImageGuest, PreparedSource
from rota.cpu_worker.public_call import PublicGuest
from rota.cpu_worker.raw_call import RawGuest
from rota.cpu_worker.task_log import TaskLog
from rota.cpu_worker.tensor_access import TensorAccess
from rota.cpu_worker.watchdog import EpochWatchdog
from rota.host.float_environment import FloatEnvironment
from rota.wasi.costs import ANSWER_BYTES_FREE, BYTE_FUEL


class Sandbox:
    """Belongs to one thread: `begin`, any number of `call`, `end`.

    Of the last call: `fuel_used`, `answer_bytes`, the `exit_code` of a command, and the tensors that it has `made`;
    `made_refs` are their references.
    """

    def __init__(
        self,
        engine: Engine,
        memories: GuestMemories,
        watchdog: EpochWatchdog,
        tensors: TensorAccess | None,
        *,
        raw_calls: bool,
    ) -> None:
        """Run guests on `engine`, whose memory comes from `memories`."""
        self._engine = engine
        self._memories = memories
        self._floats = FloatEnvironment()
        self._watchdog = watchdog
        self._guest_type: type[RawGuest] | type[PublicGuest] = RawGuest if raw_calls else PublicGuest
        self._reused: dict[Code, Guest] = {}
        self._reused_bytes = 0
        self._kept: Guest | None = None
        self.hosts = HostCalls(engine, tensors)
        self.linker = self.hosts.new_linker()
        self.fuel_used = 0
        self.answer_bytes = 0
        self.exit_code = 0
        self.made: tuple[tuple[TensorRef, bytes], ...] = ()
        self.made_refs: tuple[TensorRef, ...] = ()

    def begin(self, prepared: PreparedCode | PreparedComponent, code: Code) -> None:
        """Start a fold; code with `reuse` gets its kept instance."""
        self._prepared = prepared
        self._code = code
        self._kept = self._reused.pop(code, None) if code.reuse else None
        if self._kept is not None:
            self._reused_bytes -= self._kept.size()
        self._memories.begin()
        self._floats.begin()
        self._watchdog.begin(code.limits.timeout_ms)

    def call(self, data: bytes, facts: TaskFacts) -> bytes:
        """Run one task and return the guest's answer; of a command, its standard output.

        Raises `GuestFault` or `GuestStopped`. A guest that was stopped by mistake runs again (see watchdog.py), as does
        one that the host refused memory, if kept instances can be closed to free some.
        """
        while True:
            self._watchdog.next_task()
            try:
                return self._call_guest(data, facts)
            except GuestStopped as stopped:
                facts.log.clear()
                self._memories.begin()
                if stopped.why == "faulted" and not self._give_up_kept():
                    raise
                if stopped.why == "interrupted" and self._watchdog.reason_to_stop() is not None:
                    raise
            finally:
                self.hosts.end()

    def has_kept(self) -> bool:
        """Return whether the next call of this fold will reuse the last call's instance."""
        return self._kept is not None

    def forget(self) -> None:
        """Close the instance, so that the next call gets a fresh one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def end(self) -> None:
        """End a fold. If its instance is kept, the least recently used one is evicted when there are too many."""
        self._watchdog.end()
        self._floats.end()
        if self._kept is not None:
            self._reused[self._code] = self._kept
            self._reused_bytes += self._kept.size()
            self._kept = None
            while len(self._reused) > REUSED_INSTANCES_MAX or (
                self._reused_bytes > REUSED_BYTES_MAX and len(self._reused) > 1
            ):
                oldest = self._reused.pop(next(iter(self._reused)))
                self._reused_bytes -= oldest.size()
                oldest.close()

    def close(self) -> None:
        self._give_up_kept()
        self.linker.close()
        self.hosts.close()

    def _give_up_kept(self) -> bool:
        """Close the kept instances; return whether there were any."""
        found = bool(self._reused)
        for guest in self._reused.values():
            guest.close()
        self._reused.clear()
        self._reused_bytes = 0
        return found

    def _new_guest(self, facts: TaskFacts) -> Guest:
        """Return an instance for this task. One that others will use, too, sees none of them while it is made."""
        hosts, memory_bytes, prepared = self.hosts, self._code.limits.memory_bytes, self._prepared
        reuse = self._code.reuse
        hosts.begin(TaskFacts(0, b"", 0, TaskLog(0), facts.limits) if reuse else facts)
        guest: Guest
        try:
            if type(prepared) is PreparedCode:
                guest = self._guest_type(self._engine, prepared, hosts, memory_bytes=memory_bytes)
            elif isinstance(prepared, PreparedSource):
                guest = ImageGuest(self._engine, prepared, hosts, memory_bytes=memory_bytes)
            else:
                assert isinstance(prepared, PreparedComponent)
                guest = ComponentGuest(prepared, memory_bytes=memory_bytes)
        except (GuestFault, GuestExit) as end:
            self._check_host()
            if isinstance(end, GuestExit):
                raise _fault_of_exit(end) from None
            raise
        if reuse:
            hosts.end()
            hosts.begin(facts)
        return guest

    def _call_guest(self, data: bytes, facts: TaskFacts) -> bytes:
        """Call a guest. If the host cannot do its part, that decides, whatever the guest returned."""
        self.fuel_used = self.answer_bytes = 0
        self.made = self.made_refs = ()
        limits = self._code.limits
        guest = self._kept
        if guest is None:
            guest = self._new_guest(facts)
        else:
            self._kept = None
            self.hosts.begin(facts)
        left: int | None = None
        try:
            if self._prepared.alloc:
                answer = guest.call(data, fuel=limits.fuel + 1)
                left = guest.fuel_left()
                if len(answer) > ANSWER_BYTES_FREE:  # what the host copies and decodes is paid for
                    left = max(0, left - (len(answer) - ANSWER_BYTES_FREE) * BYTE_FUEL)
            else:
                answer = self._output_of_command(guest)
                left = guest.fuel_left()
            if not left:
                # The engine checks fuel only when a function or a loop starts, so the end of a call may overrun.
                # Giving one unit more than the limit and requiring one to be left makes the limit exact.
                raise GuestFault("fuel", f"out of fuel in {self._prepared.call}")
            if self._memories.refusal or self.hosts.tensors.fault:
                self._check_host()
        except (GuestFault, GuestStopped, GuestExit) as end:
            self.fuel_used = limits.fuel if left == 0 else min(limits.fuel, limits.fuel + 1 - guest.fuel_left())
            guest.close()
            if not isinstance(end, GuestStopped):
                self._check_host()
            if isinstance(end, GuestExit):
                raise _fault_of_exit(end) from None
            raise
        self.fuel_used = limits.fuel + 1 - left
        self.answer_bytes = len(answer)
        if self.hosts.tensors.has_made:
            self.made = self.hosts.tensors.made()
            self.made_refs = tuple([ref for ref, _ in self.made])
        if self._code.reuse and not guest.has_grown():
            self._kept = guest
        else:
            guest.close()
        return answer

    def _output_of_command(self, guest: Guest) -> bytes:
        """Run a command and return what it has written to its standard output; it has paid for that."""
        try:
            guest.call(b"", fuel=self._code.limits.fuel + 1)
            self.exit_code = 0
        except GuestExit as ended:
            self.exit_code = ended.code
        return self.hosts.stdout

    def _check_host(self) -> None:
        reason = self._memories.refusal or self.hosts.fault
        if reason:
            raise GuestStopped("faulted", reason) from None


def _fault_of_exit(ended: GuestExit) -> GuestFault:
    return GuestFault("trap", f"proc_exit({ended.code}) in {ended.where}", ended.stack)
