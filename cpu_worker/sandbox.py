"""Runs the calls of one fold: instance, fuel, memory, tensors, and stopped guests.

By default each call gets a fresh instance, so nothing leaks from one task into the next. Code deployed with `reuse`
keeps its instance between calls and folds until it fails (after a trap the memory is in an unknown state) or its memory
grows (the next task would have more room than in a fresh instance). A call of a flow keeps its instance from its first
message to its end; call_runs.py says which. A call ends in bytes, `GuestFault` (which follows from the inputs) or
`GuestStopped` (which does not).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wasmtime import Engine

from rota.common.work import Code, TensorRef
from rota.cpu_worker.component_guest import ComponentGuest, PreparedComponent
from rota.cpu_worker.guest import Guest, GuestExit, GuestFault, GuestStopped, PreparedCode
from rota.cpu_worker.guest_memory import GuestMemories
from rota.cpu_worker.host_calls import HostCalls, TaskFacts
from rota.cpu_worker.host_limits import LIVE_GUEST_BYTES, REUSED_BYTES_MAX, REUSED_INSTANCES_MAX
from rota.cpu_worker.image_guest import ImageGuest, PreparedSource
from rota.cpu_worker.own_memory import own_bytes
from rota.cpu_worker.public_call import PublicGuest
from rota.cpu_worker.raw_call import RawGuest
from rota.cpu_worker.task_log import TaskLog
from rota.cpu_worker.tensor_access import TensorAccess
from rota.cpu_worker.watchdog import EpochWatchdog
from rota.host.float_environment import FloatEnvironment
from rota.wasi.costs import ANSWER_BYTES_FREE, BYTE_FUEL
from rota.wasi.process import Process


class LiveGuest(NamedTuple):
    """A guest of a call that has not ended, and its process: None if it has not needed one."""

    guest: Guest
    process: Process | None

    table_bytes: int  # that its tables can come to

    def bytes_max(self) -> int:
        """Return what it takes if it has written to all of its memory."""
        return self._bytes(self.guest.memory_bytes())

    def bytes_now(self) -> int:
        """Return what it takes, without the pages of its image that it has not written to; this costs some time."""
        size, address = self.guest.memory_bytes(), self.guest.memory_address()
        return self._bytes(own_bytes(address, size) if address else size)

    def _bytes(self, memory: int) -> int:
        files = self.process.files.used_bytes if self.process is not None else 0
        return memory + self.table_bytes + files + LIVE_GUEST_BYTES

    def close(self) -> None:
        self.guest.close()
        if self.process is not None:
            self.process.close()


class Sandbox:
    """Belongs to one thread: `begin`, any number of `call`, `end`.

    `on_shortage` is called when the host is short of memory: it closes guests that others keep, and returns whether
    there were any.

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
        self._process: Process | None = None  # of the call that `_kept` is a guest of
        self.on_shortage: Callable[[], bool] = lambda: False
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
        self._reuse = code.reuse and not code.flow
        self._kept = self._reused.pop(code, None) if self._reuse else None
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
            try:
                return self._call_once(data, facts, self._code.limits.fuel)
            except GuestStopped as stopped:
                facts.log.clear()
                if not self.may_try_again(stopped):
                    raise

    def step(self, data: bytes, facts: TaskFacts, fuel: int) -> bytes:
        """Run the next message of a call with this fuel, in the instance that `resume` gave or the last step left.

        Raises as `call` does, and then the instance is gone: only the messages so far make it again.
        """
        process, self._process = self._process, None
        return self._call_once(data, facts, fuel, process)

    def may_try_again(self, stopped: GuestStopped) -> bool:
        """Return whether a guest that was stopped should run again: it was hit by mistake (watchdog.py), or the host
        refused it memory and others that were kept are closed now.
        """
        self._memories.begin()
        if stopped.why == "faulted":
            return self._give_up_kept()
        return self._watchdog.reason_to_stop() is None

    def resume(self, live: LiveGuest | None) -> None:
        """Continue the call of this guest, which is the fold's from now on; None: in a new one."""
        self.forget()
        if live is not None:
            self._kept, self._process = live.guest, live.process
            self._kept.renew()

    def leave(self) -> LiveGuest | None:
        """Give the guest of the fold's call away; None if there is none, since nothing ran or it was stopped."""
        guest, self._kept = self._kept, None
        process, self._process = self._process, None
        return None if guest is None else LiveGuest(guest, process, self._table_bytes())

    def _call_once(self, data: bytes, facts: TaskFacts, fuel: int, process: Process | None = None) -> bytes:
        self._watchdog.next_task()
        try:
            answer = self._call_guest(data, facts, fuel, process)
            if self._code.flow:
                self._process = self.hosts.take_process()
            return answer
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
        if self._process is not None:
            self._process.close()
            self._process = None

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

    def _table_bytes(self) -> int:
        return self._prepared.table_bytes_max if isinstance(self._prepared, PreparedCode) else 0

    def close(self) -> None:
        self._give_up_kept()
        self.linker.close()
        self.hosts.close()

    def _give_up_kept(self) -> bool:
        """Close the kept instances; return whether there were any."""
        found = self.on_shortage() or bool(self._reused)
        for guest in self._reused.values():
            guest.close()
        self._reused.clear()
        self._reused_bytes = 0
        return found

    def _new_guest(self, facts: TaskFacts) -> Guest:
        """Return an instance for this task. One that others will use, too, sees none of them while it is made."""
        hosts, memory_bytes, prepared = self.hosts, self._code.limits.memory_bytes, self._prepared
        reuse = self._reuse
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

    def _call_guest(self, data: bytes, facts: TaskFacts, fuel: int, process: Process | None) -> bytes:
        """Call a guest. If the host cannot do its part, that decides, whatever the guest returned."""
        self.fuel_used = self.answer_bytes = 0
        self.made = self.made_refs = ()
        guest = self._kept
        if guest is None:
            guest = self._new_guest(facts)
        else:
            self._kept = None
            self.hosts.begin(facts, process)
        left: int | None = None
        try:
            if self._prepared.alloc:
                answer = guest.call(data, fuel=fuel + 1)
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
            self.fuel_used = fuel if left == 0 else min(fuel, fuel + 1 - guest.fuel_left())
            guest.close()
            if not isinstance(end, GuestStopped):
                self._check_host()
            if isinstance(end, GuestExit):
                raise _fault_of_exit(end) from None
            raise
        self.fuel_used = fuel + 1 - left
        self.answer_bytes = len(answer)
        if self.hosts.tensors.has_made:
            self.made = self.hosts.tensors.made()
            self.made_refs = tuple([ref for ref, _ in self.made])
        if self._code.flow or (self._reuse and not guest.has_grown()):
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
