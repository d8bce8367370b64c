"""Runs tasks of kind `command`: a fresh WASI process per task, payload on standard input, result on standard output.

An exit code other than 0 is `error`, with the last line of standard error; all of standard error is the log.
"""

from __future__ import annotations

from typing import Final

from rota.common.limits import MESSAGE_CHARS_MAX
from rota.common.work import Done, Failed, Outcome, TaskInput
from rota.cpu_worker.host_calls import TaskFacts
from rota.cpu_worker.sandbox import Sandbox

_CODE: Final = "exit"


def run_command(sandbox: Sandbox, task: TaskInput, facts: TaskFacts) -> Outcome:
    """Return the outcome of a task. Raises `GuestFault` or `GuestStopped`."""
    bytes_max, log = facts.limits.result_bytes, facts.log
    facts.stdin, facts.stdout_bytes_max = task.payload, bytes_max
    result = sandbox.call(b"", facts)
    fuel = sandbox.fuel_used
    if sandbox.exit_code:
        lines = log.lines()
        said = next((line for line in reversed(lines) if line.strip()), "it has written nothing to standard error")
        return Failed("error", f"{_CODE} {sandbox.exit_code}: {said}"[:MESSAGE_CHARS_MAX], lines, fuel)
    if len(result) > bytes_max:
        message = f"standard output: more than {bytes_max} bytes (result_bytes)"
        return Failed("bad_output", message, log.lines(), fuel)
    return Done(result, None, (), log.lines(), fuel, sandbox.made_refs)
