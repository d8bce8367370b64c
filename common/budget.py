"""How many bytes tasks count against the budget of their lane. PURE.

Lanes, workers and the check of submits all use these functions, so that what a worker allows is what the lane has
reserved. Whether an agent gets `overflow` depends on them, so a change of these numbers is a change of the journal's
format (docs/JOURNAL.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rota.common.work import FAILURE, Done, Failed, Outcome, TensorRef

TASK_BYTES: Final = 256  # of a task besides its content: header, address, table entries
REF_BYTES: Final = 256  # one tensor reference
LINE_BYTES: Final = 60  # of a log line besides its text
FAILURE_FREE_BYTES: Final = 288  # of a failure message to an asker, so that there is always room for it


def content_bytes(kind: str, payload_bytes: int, tensors: Sequence[TensorRef]) -> int:
    """Return how many bytes the content of a message counts."""
    size = payload_bytes + REF_BYTES * len(tensors)
    return size if kind != FAILURE else max(size - FAILURE_FREE_BYTES, 0)


def outcome_bytes(outcome: Outcome) -> int:
    """Return what an outcome takes in memory: its result or message, emits, log lines and tensor references."""
    if type(outcome) is Failed:
        return len(outcome.message) + _log_bytes(outcome.log)
    assert type(outcome) is Done
    size = 0 if outcome.result is None else len(outcome.result)
    if outcome.emits or outcome.log or outcome.tensors:  # most have none of these
        refs = len(outcome.tensors) + sum([len(emit.tensors) for emit in outcome.emits])
        size += sum([TASK_BYTES + len(emit.payload) for emit in outcome.emits])
        size += _log_bytes(outcome.log) + REF_BYTES * refs
    return size


def _log_bytes(lines: Sequence[str]) -> int:
    return sum([LINE_BYTES + len(line) for line in lines])


def growth_of(done: Done, state_bytes: int, own_bytes: int) -> int:
    """Return by how many bytes a task grew its lane: the content of its emits, the growth of its agent's state, and if
    it was postponed its own content, which the lane keeps.

    `state_bytes`: the size of the state before it. `own_bytes`: its own content.
    """
    grown = 0 if done.state_digest is None else done.state_bytes - state_bytes
    if done.waits is not None:
        grown += own_bytes
    if not done.emits:  # most tasks emit nothing
        return grown
    return grown + sum([content_bytes(emit.kind, len(emit.payload), emit.tensors) for emit in done.emits])


def growth_max(growth_bytes: int, kind: str, payload_bytes: int, tensors: Sequence[TensorRef]) -> int:
    """Return by how many bytes a task may grow its lane: its allowance plus its own content, which it frees.

    So a task may always pass on or keep its content.
    """
    return growth_bytes + content_bytes(kind, payload_bytes, tensors)
