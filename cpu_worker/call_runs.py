"""Runs folds of calls: flows, whose instance takes message after message from the first one to the end of the call.

A guest of a call follows from the code and the messages so far, so it can be made again at any time: a fresh instance
runs them once more. A worker keeps the guests of the calls that it ran last and continues them if what they have seen
is exactly the past of the fold, so a call is usually not run again. A re-run that emits something else, or takes other
fuel, is a fault that names both; what it would have led to is no outcome.
"""

from __future__ import annotations

from typing import Final, Literal

from rota.common.calls import other_path_text, path_of
from rota.common.limits import OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX
from rota.common.work import AFTER_END, OUT_OF_CALL_FUEL, SOURCE, Done, Failed, Fold, FoldResult, Outcome, TaskInput
from rota.cpu_worker import abi
from rota.cpu_worker.call_history import CallHistory, call_key
from rota.cpu_worker.guest import GuestFault, GuestStopped
from rota.cpu_worker.guest_memory import GuestMemories
from rota.cpu_worker.host_calls import fold_facts
from rota.cpu_worker.live_calls import LiveCall, LiveCalls
from rota.cpu_worker.outcome_tensors import keep_tensors
from rota.cpu_worker.sandbox import Sandbox
from rota.cpu_worker.tensor_access import TensorAccess
from rota.cpu_worker.watchdog import EpochWatchdog
from rota.wasi.program import Program

_OUT_OF_FUEL: Final = "out of fuel"


class CallRuns:
    """The calls of one worker. Belongs to the executor's thread."""

    def __init__(
        self, sandbox: Sandbox, watchdog: EpochWatchdog, tensors: TensorAccess | None, memories: GuestMemories
    ) -> None:
        self._sandbox = sandbox
        self._watchdog = watchdog
        self._tensors = tensors
        self._live = LiveCalls(memories)
        sandbox.on_shortage = self.give_up
        self.steps_again = 0  # steps that ran again, since their guest was not kept

    def run(self, fold: Fold, program: Program) -> FoldResult:
        """Run a fold of a call, between `begin` and `end` of the sandbox."""
        key = call_key(fold)
        assert fold.past is not None
        history = CallHistory(key, fold.past.steps, fold.past.fuel)
        call = _RunningCall(self._sandbox, self._watchdog, fold, program, history)
        call.resume(self._live.take(key))
        try:
            call.check_past()
        except ValueError as error:
            return FoldResult((), None, "faulted", f"{fold.address}: its past cannot be read: {error}")
        try:
            result = self._run_tasks(call)
        finally:
            self.steps_again += call.steps_again
        self._keep(key, call)
        return result

    def _run_tasks(self, call: _RunningCall) -> FoldResult:
        fold = call.fold
        assert fold.past is not None
        outcomes: list[Outcome] = []
        answered_bytes = 0
        for place, task in enumerate(fold.tasks):
            if call.has_ended or place >= fold.past.alive:
                outcomes.append(AFTER_END)
                continue
            if self._watchdog.reason_to_stop() == "interrupted" or answered_bytes > OUTPUT_BYTES_MAX:
                break
            try:
                outcome = self._outcome(call, task)
            except GuestStopped as stopped:
                self._sandbox.forget()
                return FoldResult(tuple(outcomes), None, *call.why(stopped))
            outcomes.append(outcome)
            answered_bytes += self._sandbox.answer_bytes
        stopped_early = len(outcomes) < len(fold.tasks)
        return FoldResult(tuple(outcomes), None, "interrupted" if stopped_early else None)

    def give_up(self) -> bool:
        """Close the guests that are kept; return whether there were any."""
        return self._live.give_up()

    def _outcome(self, call: _RunningCall, task: TaskInput) -> Outcome:
        """Run a message, with all before it if the guest is lost and another try may succeed."""
        why = call.history.why_no_more(task, call.fold.code.limits)
        if why:
            call.has_ended = True
            return Failed("overflow", why, (), 0)
        while True:
            try:
                call.catch_up()
                return self._kept_outcome(call, task)
            except GuestStopped as stopped:
                if call.is_other(stopped) or not self._sandbox.may_try_again(stopped):
                    raise
                call.resume(None)

    def _kept_outcome(self, call: _RunningCall, task: TaskInput) -> Outcome:
        sandbox = self._sandbox
        outcome = call.step(task)
        if (sandbox.made or sandbox.answer_bytes > PAYLOAD_BYTES_MAX) and type(outcome) is Done:
            outcome = keep_tensors(outcome, sandbox.made, self._tensors)
        call.take(task, outcome)
        return outcome

    def _keep(self, key: bytes, call: _RunningCall) -> None:
        """Keep the guest of a call that goes on."""
        live = self._sandbox.leave()
        if live is None:
            return
        if call.has_ended or not call.is_caught_up:
            live.close()
            return
        history = call.history
        kept = LiveCall(live, history.mark, history.fuel, history.sums)
        self._live.keep(key, kept, was_kept=call.was_kept)


class _RunningCall:
    """The call of one fold: its history, and how much of that the sandbox's guest has seen."""

    def __init__(
        self, sandbox: Sandbox, watchdog: EpochWatchdog, fold: Fold, program: Program, history: CallHistory
    ) -> None:
        self.fold = fold
        self.history = history
        self.has_ended = False
        self._sandbox = sandbox
        self._watchdog = watchdog
        self._facts = fold_facts(fold, program)
        self.steps_again = 0
        self.was_kept = False  # the guest has seen the history so far without being run again
        self._seen = 0  # steps
        self._seen_tensors = 0
        self._seen_fuel = 0

    @property
    def is_caught_up(self) -> bool:
        return self._seen == len(self.history)

    def resume(self, kept: LiveCall | None) -> None:
        """Continue with a kept guest if it has seen exactly the history; else with a fresh one."""
        history = self.history
        self.was_kept = kept is not None and (kept.mark, kept.fuel) == (history.mark, history.fuel)
        if kept is not None and self.was_kept:
            self._sandbox.resume(kept.live)
            history.know(kept.sums)
            self._seen, self._seen_tensors, self._seen_fuel = len(history), len(kept.sums.tensors), history.fuel
            return
        if kept is not None:
            kept.live.close()
        self._sandbox.resume(None)
        self._seen = self._seen_tensors = self._seen_fuel = 0

    def check_past(self) -> None:
        """Raise `ValueError` if the past has to be read and cannot be."""
        if not self.is_caught_up:
            _ = self.history.sums

    def catch_up(self) -> None:
        """Run what the guest has not seen. Raises `GuestStopped` if it does something else than before."""
        history, address = self.history, self.fold.address
        if self.is_caught_up:
            return
        for step in history.steps[self._seen :]:
            self.steps_again += 1
            outcome = self.step(step.task)
            now = _way_of(outcome)
            if now != step.path:
                raise _OtherPath(other_path_text(address, step.task.turn, step.path, now))
            self._see(step.task, outcome.fuel)
        if self._seen_fuel != history.fuel:
            raise _OtherPath(
                f"{address} takes {self._seen_fuel} units of fuel for the {len(history)} messages that it is run "
                f"again with, and took {history.fuel} before"
            )

    def step(self, task: TaskInput) -> Outcome:
        """Run a message in the guest. Raises `GuestStopped`."""
        fold, facts, sandbox = self.fold, self._facts, self._sandbox
        limits = fold.code.limits
        earlier = self.history.sums.tensors[: self._seen_tensors]
        facts.begin(task)
        facts.tensors, facts.tensors_earlier = (*earlier, *task.tensors), len(earlier)
        fuel = min(limits.fuel, limits.call_fuel - self._seen_fuel)
        data = abi.encode_input(task, address=fold.address, state=None, entropy=facts.entropy)
        try:
            answer = sandbox.step(data, facts, fuel)
        except GuestFault as fault:
            if fold.code.kind != SOURCE:  # its stack is the interpreter's, not the author's
                facts.log.end_with(fault.stack)
            message = fault.message
            if fault.kind == "fuel" and fuel < limits.fuel:
                message = OUT_OF_CALL_FUEL + message.removeprefix(_OUT_OF_FUEL)
            return Failed(fault.kind, message, facts.log.lines(), sandbox.fuel_used)
        outcome, _ = abi.decode_output(
            answer,
            address=fold.address,
            state=None,
            task=task,
            limits=limits,
            fuel=sandbox.fuel_used,
            log=facts.log,
            made=sandbox.made_refs,
            call=earlier,
        )
        return outcome

    def take(self, task: TaskInput, outcome: Outcome) -> None:
        """Note the outcome of a new message."""
        if type(outcome) is not Done or outcome.waits is None:
            self.has_ended = True
            return
        self.history.add(task, path_of(outcome.emits), outcome.fuel)
        self._see(task, outcome.fuel)

    def is_other(self, stopped: GuestStopped) -> bool:
        """Return whether a re-run was stopped because it differs: that says nothing of the host."""
        return isinstance(stopped, _OtherPath)

    def why(self, stopped: GuestStopped) -> tuple[Literal["interrupted", "timeout", "faulted"], str]:
        """Return how the fold stopped, and the reason for the log."""
        if stopped.why != "interrupted":
            return "faulted", stopped.reason
        reason = self._watchdog.reason_to_stop()
        assert reason is not None, "a guest that was stopped without a reason runs again"
        if reason == "timeout" and not self.is_caught_up:  # it was in time before, so this is a matter of the host
            turn = self.history.steps[self._seen].task.turn
            return "faulted", f"{self.fold.address}: turn {turn} took longer than timeout_ms when it was run again"
        return reason, ""

    def _see(self, task: TaskInput, fuel: int) -> None:
        self._seen += 1
        self._seen_tensors += len(task.tensors)
        self._seen_fuel += fuel


class _OtherPath(GuestStopped):
    """A re-run does something else than the first run did."""

    def __init__(self, reason: str) -> None:
        super().__init__("faulted", reason)


def _way_of(outcome: Outcome) -> str:
    """Return the path of a step for which the call had gone on: anything else is another one."""
    if isinstance(outcome, Failed):
        return f"failed: {outcome.kind}: {outcome.message}"
    return path_of(outcome.emits) if outcome.waits is not None else "returned"
