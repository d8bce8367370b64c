"""Consistency checks within a record, beyond what folding needs. PURE.

The chain of digests detects that a record was changed after it was written. If the chain was recomputed too, these
checks or an execution detect it: an input carries the digest of its request, a completion that of the state it left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from rota.broker import records
from rota.broker.notes import Notes
from rota.broker.origins import fits_origin
from rota.common.digests import ZERO_DIGEST, digest
from rota.common.work import Done

# The classes of causes of a divergence.
INPUT: Final = "input"  # a request, a seed or a time was changed
CODE: Final = "code"  # the module or model is not the one that ran, or is not deterministic
RUNTIME_VERSION: Final = "runtime version"  # another engine computed the outcome
DEVICE: Final = "device"  # another processor, accelerator or provider computed it
ORDER: Final = "order"  # the run has things in the wrong order
CORRUPT_RECORD: Final = "corrupt record"  # the record is not what happened
CERTIFICATE: Final = "certificate"  # a model gives other bits under the fingerprint for which it was certified
CAUSES: Final = (INPUT, CODE, RUNTIME_VERSION, DEVICE, CERTIFICATE, ORDER, CORRUPT_RECORD)


class Fault(NamedTuple):
    """A record that contradicts itself, and the first turn that it concerns."""

    number: int
    lane: str
    turn: int
    cause: str
    text: str


def check_completed(number: int, record: records.Completion, notes: Notes) -> Fault | None:
    """Compare states and addresses of a completion with its outcomes and tasks; `notes` are from applying it."""
    tasks = {task.turn: task for task in notes.finished}
    for fold in record.folds:
        left, left_by = None, fold.turns[0]
        for turn, outcome in zip(fold.turns, fold.outcomes, strict=True):
            if tasks[turn].address != fold.address:
                text = f"an outcome of {fold.address} is written for a task of {tasks[turn].address}"
                return Fault(number, record.lane, turn, ORDER, text)
            if type(outcome) is Done and outcome.state_digest is not None:
                left, left_by = outcome.state_digest, turn
        found = None if fold.state is None else digest(fold.state)
        if found != left:
            text = f"the state of {fold.address} has digest {_short(found)}, its outcome says {_short(left)}"
            return Fault(number, record.lane, left_by, CORRUPT_RECORD, text)
    return None


def check_input(number: int, record: Any, turn: int, lanes: Iterable[str] = ()) -> Fault | None:
    """Compare an input with the digest of the request that it came from.

    `turn` is the first one that it can affect, `lanes` are those that a new lane can take its deploys from.
    """
    origin = getattr(record, "origin", None)
    if origin is None or origin.request == ZERO_DIGEST or isinstance(record, records.SeedSet):
        return None  # decided by the broker, without a request
    if fits_origin(record, lanes):
        return None
    asked = f"request {origin.number} of producer {origin.producer!r}"
    cause = CODE if isinstance(record, records.Deployed) else INPUT
    return Fault(number, record.lane, turn, cause, f"it is not what {asked} asked for: its digest is another")


def _short(found: bytes | None) -> str:
    return "none" if found is None else found.hex()[:12]
