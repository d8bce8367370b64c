"""Faults of records and columns, most of the rules that refuse records that no broker writes: the fields of `Mutation`
in _mutations.py.
"""

from __future__ import annotations

from typing import Final

_RULES: Final = ("tests/broker/test_journal_rules.py",)
_COLUMNS: Final = ("tests/common/test_columns.py",)
_JOURNAL: Final = ("tests/broker/test_records.py", "tests/broker/test_journal.py")
_REQUESTS: Final = ("tests/broker/test_requests.py",)
_VERDICTS: Final = ("tests/broker/test_undone.py", "tests/broker/test_reference.py")
_WORKERS: Final = ("tests/broker/test_workers.py",)

FAULTS: Final = (
    (
        "failure-of-other-code",
        "code fails only in the ways of its kind",
        "broker/lane.py",
        "assert outcome.kind in KINDS[task.code.kind].failures, (",
        "assert outcome.kind, (",
        _RULES,
    ),
    (
        "failure-of-other-code-taken",
        "a worker that reports a failure its code cannot have is expelled",
        "broker/workers.py",
        "if outcome.kind not in kind_of(task.code).failures:",
        "if was_decided(outcome):",
        _WORKERS,
    ),
    (
        "verdict-in-other-words",
        "a verdict is one of those that a broker gives",
        "broker/world.py",
        " or not can_say(record.failure, record.message, task.code):",
        ":",
        _RULES,
    ),
    (
        "verdict-without-reasons",
        "the outcome of a task that no worker could do has their reasons",
        "broker/world.py",
        "Failed(record.failure, record.message, record.log, 0)",
        "Failed(record.failure, record.message, (), 0)",
        _VERDICTS,
    ),
    (
        "reasons-without-bound",
        "a verdict keeps the newest reasons, each once",
        "broker/tasks.py",
        "(*others, reason)[-limits.TRIES_MAX :]",
        "(*others, reason)[: limits.TRIES_MAX]",
        _VERDICTS,
    ),
    (
        "drop-of-the-living",
        "a drop names dead letters",
        "broker/requests.py",
        "    check_dead(lane, *request.seqs)\n",
        "",
        _REQUESTS,
    ),
    (
        "provenance-of-the-first",
        "each result keeps its own provenance",
        "common/columns.py",
        "repeat(value, times) for times, value in column",
        "repeat(column[0][1], times) for times, _ in column",
        _COLUMNS,
    ),
    (
        "request-twice",
        "a request takes effect once",
        "broker/producers.py",
        "        if not self.is_new(origin):\n",
        "        if False:\n",
        _RULES,
    ),
    (
        "request-without-digest",
        "an input of a producer has the digest of its request",
        "broker/records.py",
        "if origin is not None and origin.producer and",
        "if origin is None and",
        _JOURNAL,
    ),
    (
        "retry-with-runs",
        "a retry brings no tasks of its own",
        "broker/records.py",
        "bool(record.runs) == (record.retry_of is not None)",
        "not record.runs and record.retry_of is None",
        _JOURNAL,
    ),
)
