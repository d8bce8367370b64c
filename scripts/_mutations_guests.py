"""Faults in what workers make of outputs, how they run calls of flows, and in how these are dispatched.

For _mutations.py: the fields of its `Mutation`.
"""

from __future__ import annotations

from typing import Final

_RUNS: Final = ("tests/cpu_worker/test_calls.py",)
_SETTLING: Final = ("tests/cpu_worker/test_settling.py",)
_DISPATCH: Final = ("tests/broker/test_dispatch_calls.py",)

GUEST_FAULTS: Final = (
    (
        "emits-of-a-failure",
        "a failed task emits nothing",
        "cpu_worker/abi.py",
        '            return Failed("error", error_message(fields[2], fields[3]), log.lines(), fuel), None\n',
        '            emits = emits_of([["a/b", b""]], None, address, task, limits, own)\n'
        "            return Done(None, None, emits, log.lines(), fuel, ()), None\n",
        ("tests/cpu_worker/test_abi.py", "tests/cpu_worker/test_executor.py"),
    ),
    (
        "guest-of-another-history",
        "a kept guest continues only the call that it has seen, all of it",
        "cpu_worker/call_runs.py",
        "if kept is not None and (kept.mark, kept.fuel) == (history.mark, history.fuel):",
        "if kept is not None:",
        _RUNS,
    ),
    (
        "another-path-taken",
        "a re-run that emits something else gives no outcome",
        "cpu_worker/call_runs.py",
        "            if now != step.path:\n",
        "            if not now and now != step.path:\n",
        _RUNS,
    ),
    (
        "other-fuel-taken",
        "a re-run takes the fuel that the first run took",
        "cpu_worker/call_runs.py",
        "        if self._seen_fuel != history.fuel:\n",
        "        if self._seen_fuel < 0:\n",
        _RUNS,
    ),
    (
        "call-fuel-unbounded",
        "all steps of a call together have call_fuel",
        "cpu_worker/call_runs.py",
        "fuel = min(limits.fuel, limits.call_fuel - self._seen_fuel)",
        "fuel = min(limits.fuel, limits.call_fuel)",
        _RUNS,
    ),
    (
        "message-behind-the-end-run",
        "messages that come after the end of a call are not run",
        "cpu_worker/call_runs.py",
        "            if call.has_ended or place >= fold.past.alive:\n",
        "            if call.has_ended:\n",
        _RUNS,
    ),
    (
        "re-run-times-out",
        "a step that is late when it runs again fails no later message",
        "cpu_worker/call_runs.py",
        'if reason == "timeout" and not self.is_caught_up:',
        'if reason == "never" and not self.is_caught_up:',
        _RUNS,
    ),
    (
        "guest-kept-after-a-stop",
        "a guest that was stopped runs no further step",
        "cpu_worker/call_runs.py",
        "                call.resume(None)\n",
        "                call.history.fuel += 0\n",
        _RUNS,
    ),
    (
        "calls-kept-without-end",
        "a worker keeps as many guests of calls as it may",
        "cpu_worker/call_runs.py",
        "        while len(self._live) > self._live_max or",
        "        while len(self._live) > 64 * (1 + self._live_max) or",
        _RUNS,
    ),
    (
        "messages-of-a-call-unbounded",
        "a call has at most steps_max messages",
        "cpu_worker/call_history.py",
        "        if len(self) >= limits.steps_max:\n",
        "        if len(self) > limits.steps_max:\n",
        _RUNS,
    ),
    (
        "content-of-a-call-unbounded",
        "the messages of a call have at most call_bytes",
        "cpu_worker/call_history.py",
        "        if self.sums.content + _content_of(task) > limits.call_bytes:\n",
        "        if _content_of(task) > limits.call_bytes:\n",
        _RUNS,
    ),
    (
        "process-of-one-message",
        "a call is one process, whose clock never goes back",
        "cpu_worker/sandbox.py",
        "                self._process = self.hosts.take_process()\n",
        "                self._process = None\n",
        _RUNS,
    ),
    (
        "clock-set-back",
        "no clock of a call goes back",
        "wasi/process.py",
        "max(self._elapsed_ns, now_ms * NS_PER_MS - self._start_ns)",
        "now_ms * NS_PER_MS - self._start_ns",
        ("tests/wasi/test_process.py",),
    ),
    (
        "settled-twice",
        "an agent settles a turn once",
        "cpu_worker/open_turns.py",
        "            if turn in named or not (is_own or turn in self._turns):\n",
        "            if not (is_own or turn in self._turns):\n",
        _SETTLING,
    ),
    (
        "settled-for-others",
        "an agent settles only what it has postponed",
        "cpu_worker/open_turns.py",
        "            if turn in named or not (is_own or turn in self._turns):\n",
        "            if turn in named:\n",
        _SETTLING,
    ),
    (
        "postponed-for-nobody",
        "only a task that somebody waits for is postponed",
        "cpu_worker/open_turns.py",
        "        if waits is not None and task.kind != ASK and task.sender is not None:\n",
        "        if waits is not None and task.kind != ASK and not task.turn:\n",
        _SETTLING,
    ),
    (
        "open-turns-unbounded",
        "an agent has at most asks_max turns open",
        "cpu_worker/open_turns.py",
        "        if len(self._turns) - len(named) >= asks_max:\n",
        "        if len(self._turns) - len(named) > asks_max:\n",
        _SETTLING,
    ),
    (
        "settled-in-the-same-fold",
        "what a task settles the next one of its fold does not",
        "cpu_worker/executor.py",
        "                self._open.take(task, outcome)\n",
        "",
        _SETTLING,
    ),
    (
        "write-to-another-call",
        "nobody sends to a call of a flow",
        "cpu_worker/abi_emits.py",
        "    if not is_own and is_instance(target):\n",
        "    if not is_own and not target:\n",
        _SETTLING,
    ),
    (
        "calls-go-anywhere",
        "a call goes to the worker that has its guest, if that is free",
        "broker/dispatch.py",
        "return min(at_home or free,",
        "return min(free,",
        _DISPATCH,
    ),
    (
        "one-worker-takes-all-calls",
        "an assignment leaves calls to the workers that have their guests",
        "broker/dispatch.py",
        "return 0 != home != worker.number and",
        "return home < 0 and",
        _DISPATCH,
    ),
    (
        "re-run-is-overdue",
        "a worker that makes a guest again is not taken for one that hangs",
        "broker/dispatch.py",
        "return (len(tasks) + again) *",
        "return len(tasks) *",
        _DISPATCH,
    ),
)
