"""Folds as they travel to a worker: tasks that share a header, as columns. PURE.

worker/loop.py makes a `Fold` (work.py) of each again. With a new field, change docs/PROTOCOL.md.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from msgspec import Meta

from rota.common import limits
from rota.common.columns import Blobs, Column, Sparse, check_sparse
from rota.common.fields import Blob, Count, Counts, EmitsMax, GrowthBytes, Target
from rota.common.work import MessageKind, Past, ReplyTo, Tensors, all_travel


class Segment(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Tasks of one fold that share a header. `tensors` are the references of tasks that have some."""

    kind: MessageKind
    sender: Target | None
    now_ms: Count
    reply_to: ReplyTo | None
    emits_max: EmitsMax
    growth_bytes: GrowthBytes
    turns: Counts
    payloads: Blobs
    tensors: Sparse[Tensors]

    def __post_init__(self) -> None:
        if len(self.turns) != len(self.payloads):
            raise ValueError(f"{len(self.turns)} turns and {len(self.payloads)} payloads")
        check_sparse("tensors", self.tensors, len(self.turns))


@all_travel
class FoldAssignment(NamedTuple):
    """One fold of an Assign. `code` is an index into the assignment's table of codes; `open`, `past`: see `Fold`."""

    code: Count
    address: Target
    state: Blob | None
    segments: Annotated[tuple[Segment, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    open: Counts = ()
    past: Past | None = None
