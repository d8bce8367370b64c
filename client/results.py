"""What came of a task, as a producer sees it. PURE.

`Result` is a value: it stays what it is, and looks into the tensor store only when arrays are asked for. How payloads
become values is `payloads.py`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rota.common.errors import TaskFailed
from rota.common.messages import ResultItem
from rota.common.work import Provenance, TensorRef


class Decoder(Protocol):
    """Turns payloads into values and arrays."""

    def value(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Any: ...

    def arrays(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one task. `ok` is False for a failure, which `kind`, `message` and `log` then explain.

    `payload` is the result's bytes, None where the task succeeded without one. `log` holds the lines that the agent
    wrote. `provenance` says on which provider a model ran.
    """

    seq: int
    lane: str
    turn: int
    attempts: int
    ok: bool
    payload: bytes | None
    tensors: tuple[TensorRef, ...]
    kind: str
    message: str
    log: tuple[str, ...]
    provenance: Provenance | None
    _decoder: Decoder = field(repr=False, compare=False)

    @property
    def value(self) -> Any:
        """The result as the value that was packed: MessagePack, arrays included. None where there is no result.

        Raises `TaskFailed` for a failure and `BadPayload` where the result is no packed value (see `payload`).
        """
        self.raise_if_failed()
        return None if self.payload is None else self._decoder.value(self.payload, self.tensors)

    @property
    def arrays(self) -> Mapping[str, Any]:
        """The outputs of a model by name; those in the tensor store are mapped, not copied. Raises like `value`."""
        self.raise_if_failed()
        return self._decoder.arrays(self.payload or b"", self.tensors)

    def raise_if_failed(self) -> Result:
        """Return the result itself if the task succeeded; else raise `TaskFailed` with all that is known."""
        if self.ok:
            return self
        raise TaskFailed(
            f"task {self.seq} failed with {self.kind}: {self.message}",
            seq=self.seq, lane=self.lane, kind=self.kind, reason=self.message, attempts=self.attempts,
            log=list(self.log),
        )  # fmt: skip


def result_of(item: ResultItem, decoder: Decoder) -> Result:
    """Return a result as it came over the wire, with what it takes to read it."""
    return Result(
        item.seq, item.lane, item.turn, item.attempts, item.ok, item.result, item.tensors, item.kind, item.message,
        item.log, item.provenance, decoder,
    )  # fmt: skip
