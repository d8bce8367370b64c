"""The outcome of a task for its producer. PURE.

`Result` is immutable, and reads the tensor store only when arrays are asked for. tensors/payloads.py decodes payloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rota.common.errors import BadPayload, TaskFailed
from rota.common.limits import PAYLOAD_BYTES_MAX
from rota.common.messages import ResultItem
from rota.common.work import Provenance, TensorRef, failure_text


class Decoder(Protocol):
    """Turns payloads into values and arrays."""

    def value(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Any: ...

    def arrays(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Mapping[str, Any]: ...

    def tensor_arrays(self, tensors: tuple[TensorRef, ...]) -> tuple[Any, ...]: ...


class Result:
    """The outcome of one task. `ok` is False for a failure, which `kind`, `message` and `log` then explain.

    It wraps the received item and decodes on demand, since there may be hundreds of thousands.
    """

    __slots__ = ("_decoder", "_item")

    def __init__(self, item: ResultItem, decoder: Decoder) -> None:
        self._item = item
        self._decoder = decoder

    @property
    def seq(self) -> int:
        return self._item.seq

    @property
    def lane(self) -> str:
        return self._item.lane

    @property
    def turn(self) -> int:
        return self._item.turn

    @property
    def attempts(self) -> int:
        """How often the task was given to a worker."""
        return self._item.attempts

    @property
    def ok(self) -> bool:
        return self._item.ok

    @property
    def payload(self) -> bytes | None:
        """The result's bytes; None if the task failed, or succeeded without a result."""
        return self._item.result

    @property
    def data(self) -> bytes | None:
        """The result's bytes, however many: the payload, or the tensor that a large one became (docs/AGENTS.md).

        Raises like `tensor_arrays`.
        """
        large = self.tensors[-1:] if self.payload == b"" else ()
        if large and large[0].dtype == "uint8" and len(large[0].shape) == 1 and large[0].shape[0] > PAYLOAD_BYTES_MAX:
            data: bytes = self._decoder.tensor_arrays(large)[0].tobytes()
            return data
        return self.payload

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return self._item.tensors

    @property
    def kind(self) -> str:
        return self._item.kind

    @property
    def message(self) -> str:
        return self._item.message

    @property
    def explanation(self) -> str:
        """The message, and where no worker could do the task the reason that the last one gave."""
        return failure_text(self.kind, self.message, self.log)

    @property
    def log(self) -> tuple[str, ...]:
        """The lines that the agent wrote; of a task that no worker could do, their last reasons."""
        return self._item.log

    @property
    def provenance(self) -> Provenance | None:
        """The provider on which a model ran."""
        return self._item.provenance

    @property
    def value(self) -> Any:
        """The result, unpacked from MessagePack, arrays included. None if there is no result.

        Raises `TaskFailed` for a failure and `BadPayload` if the result is not a packed value (see `text`, `payload`).
        """
        self.raise_if_failed()
        return None if self.payload is None else self._decoder.value(self.payload, self.tensors)

    @property
    def text(self) -> str | None:
        """The result's bytes (`data`) as text in UTF-8. None if there is no result.

        Raises `TaskFailed` for a failure, `BadPayload` if the bytes are no UTF-8, and like `data`.
        """
        self.raise_if_failed()
        data = self.data
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise BadPayload(
                f"the result of task {self.seq} is no text in UTF-8 ({error.reason} at byte {error.start}): "
                "read it as .value if it is MessagePack, else its bytes, .data",
                seq=self.seq,
            ) from error

    @property
    def arrays(self) -> Mapping[str, Any]:
        """The outputs of a model by name; those in the tensor store are mapped, not copied. Raises like `value`."""
        self.raise_if_failed()
        return self._decoder.arrays(self.payload or b"", self.tensors)

    @property
    def tensor_arrays(self) -> tuple[Any, ...]:
        """The arrays that `tensors` name, read-only and mapped from the tensor store.

        Raises `TensorError` if the client has no store, or the store has not (or no longer) the tensor.
        """
        return self._decoder.tensor_arrays(self.tensors)

    def raise_if_failed(self) -> Result:
        """Return the result itself if the task succeeded; else raise `TaskFailed` with the details."""
        if self.ok:
            return self
        raise TaskFailed(
            f"task {self.seq} failed with {self.kind}: {self.explanation}",
            seq=self.seq, lane=self.lane, kind=self.kind, reason=self.message, attempts=self.attempts,
            log=list(self.log),
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return self._item == other._item if isinstance(other, Result) else NotImplemented

    def __hash__(self) -> int:
        return self._item.seq

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}={value!r}' for name, value in self._item._asdict().items())})"


def result_of(item: ResultItem, decoder: Decoder) -> Result:
    """Return a received item as a result, with its decoder."""
    return Result(item, decoder)
