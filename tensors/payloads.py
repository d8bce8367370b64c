"""Converts values to payloads and back, and divides payloads among messages.

Bytes are sent unchanged, text as its UTF-8. Other values are packed (values.py); large arrays, or many small ones, go
into the tensor store and are sent as references. A model takes a map of input name to array, or a text task as its map.
A value that cannot be sent raises `BadPayload`, with the remedy, before anything is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rota.common import limits
from rota.common.columns import Addresses
from rota.common.errors import BadPayload, BadTarget, TensorError
from rota.common.messages import TaskRun
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, check_target
from rota.common.text_requests import text_payload
from rota.common.work import TensorRef

if TYPE_CHECKING:
    from rota.tensors.arrays import Array, CallPacker
    from rota.tensors.store import TensorStore

RUN_BYTES_MAX: Final = limits.MESSAGE_BYTES_MAX // 2  # payloads of one message; the rest is for headers and references
_REFERENCE_BYTES: Final = 512  # the largest reference in a message: digest, dtype and a shape of any rank

Packed = tuple[bytes, tuple[TensorRef, ...]]


class Payloads:
    """Packs and unpacks for one client or local lane. `store_folder` None: no store, all arrays are inline."""

    def __init__(self, store_folder: Path | None) -> None:
        self._store_folder = store_folder
        self._store: TensorStore | None = None
        self._calls: CallPacker | None = None

    def pack(self, target: str, value: Any) -> Packed:
        """Return the payload of a task and its tensor references."""
        if isinstance(value, bytes | bytearray | memoryview):
            packed: Packed = (bytes(value), ())
        elif target.startswith(MODEL_PREFIX):
            packed = self._pack_model_inputs(value)
        elif isinstance(value, str):
            packed = _utf8(value), ()
        else:
            from rota.tensors.values import pack_value

            payload, references = pack_value(value, self.store())
            packed = payload, tuple(references)
        if len(packed[0]) > limits.PAYLOAD_BYTES_MAX:
            raise BadPayload(
                f"the payload for {target} has {len(packed[0])} bytes, the limit is {limits.PAYLOAD_BYTES_MAX}: "
                + self._remedy(),
                target=target,
                bytes=len(packed[0]),
            )
        return packed

    def messages(
        self, targets: str | Sequence[str], payloads: Iterable[Any], priority: int
    ) -> Iterator[tuple[TaskRun, ...]]:
        """Yield the runs for one message after another, each within the bounds of a message.

        `targets` is one for all, or one per payload.
        """
        if not isinstance(targets, str):
            payloads = list(payloads)
            if len(payloads) != len(targets):
                raise BadPayload(
                    f"{len(targets)} targets for {len(payloads)} payloads: give one target for all, or one per payload"
                )
        source = iter(payloads)
        start = 0
        packed, held = self._next_message(targets, start, source, None)
        while packed:
            names = targets if isinstance(targets, str) else targets[start : start + len(packed)]
            start += len(packed)
            yield (run_of(names, packed, priority),)
            packed, held = self._next_message(targets, start, source, held)

    def value(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Any:
        """Return the value in a result."""
        from rota.tensors.values import unpack_value

        return unpack_value(payload, tensors, self.store())

    def arrays(self, payload: bytes, tensors: tuple[TensorRef, ...]) -> Mapping[str, Array]:
        """Return the outputs of a model."""
        from rota.tensors.arrays import decode_arrays

        return decode_arrays(payload, tensors, self.store())

    def tensor_arrays(self, tensors: tuple[TensorRef, ...]) -> tuple[Array, ...]:
        """Return the arrays of these references. Raises `TensorError`."""
        if not tensors:
            return ()
        store = self.store()
        if store is None:
            raise TensorError("this client has no tensor store: name its folder with `tensors`")
        return tuple([store.open(ref) for ref in tensors])

    def store(self) -> TensorStore | None:
        """Return the tensor store, opened on first use."""
        if self._store is None and self._store_folder is not None:
            from rota.tensors.store import TensorStore

            self._store = TensorStore(self._store_folder)
        return self._store

    def _remedy(self) -> str:
        if self._store_folder is None:
            return "this client has no tensor store; name its folder with `tensors`, and large arrays go through it"
        return "send large data as numpy arrays, which travel through the tensor store"

    def _pack_model_inputs(self, value: Any) -> Packed:
        text = text_payload(value) if isinstance(value, Mapping) else None
        if text is not None:
            return text, ()
        if not isinstance(value, Mapping) or not _are_arrays(value.values()):
            raise BadPayload(
                'a model takes a map of input name to numpy array, {"input": array}, or a text task, {"generate": '
                '{"prompt": "..."}}, or the payload as bytes; `rota model show NAME` lists the inputs'
            )
        if self._calls is None:
            from rota.tensors.arrays import CallPacker

            self._calls = CallPacker(self.store())
        return self._calls.pack(value)

    def _next_message(
        self, targets: str | Sequence[str], start: int, source: Iterator[Any], held: Packed | None
    ) -> tuple[list[Packed], Packed | None]:
        """Return the payloads of the next message, and the first payload that was packed but did not fit."""
        packed = [] if held is None else [held]
        size = sum(_size(one) for one in packed)
        for value in islice(source, limits.RUN_TASKS_MAX - len(packed)):
            if type(value) is bytes and len(value) <= limits.PAYLOAD_BYTES_MAX:
                one: Packed = (value, ())
            else:
                one = self.pack(targets if isinstance(targets, str) else targets[start + len(packed)], value)
            size += _size(one)
            if size > RUN_BYTES_MAX:
                return packed, one
            packed.append(one)
        return packed, None


def check_targets(targets: str | Sequence[str]) -> None:
    """Raise `BadTarget` for the first target that no task can be sent to."""
    if not isinstance(targets, str | list | tuple | Addresses):
        raise BadTarget(f"targets={shown(targets)}: give one target, or a list with one per payload")
    for target in (targets,) if isinstance(targets, str) else targets:
        check_target(target)


def run_of(targets: str | Sequence[str], packed: Sequence[Packed], priority: int) -> TaskRun:
    """Return packed payloads as one run."""
    return TaskRun.of(targets, priority, [payload for payload, _ in packed], [references for _, references in packed])


def check_message(runs: Sequence[TaskRun]) -> None:
    """Raise `BadPayload` if runs that must be accepted together do not fit into one message."""
    tasks = sum(len(run.payloads) for run in runs)
    size = sum(len(run.payloads.data) for run in runs)
    if not tasks or tasks > limits.RUN_TASKS_MAX or size > RUN_BYTES_MAX:
        raise BadPayload(
            f"{tasks} tasks with {size} bytes in one atomic batch; allowed are 1 to {limits.RUN_TASKS_MAX} tasks "
            f"and {RUN_BYTES_MAX} bytes: use several batches, or submit_many, which splits",
            tasks=tasks,
            bytes=size,
        )


def _size(packed: Packed) -> int:
    return len(packed[0]) + _REFERENCE_BYTES * len(packed[1]) + 8


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadPayload(
            f"the payload is text with half a surrogate pair at {error.start}, which UTF-8 cannot hold: send bytes"
        ) from error


def _are_arrays(values: Iterable[Any]) -> bool:
    numpy = sys.modules.get("numpy")  # if numpy is not imported, no value is an array
    return numpy is not None and all(isinstance(value, numpy.ndarray) for value in values)
