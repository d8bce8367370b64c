"""What `rota verify` and its worker processes say to each other: folds there, results back. PURE.

A frame is a length of eight bytes and so many bytes of MessagePack. Both ends are this installation, so folds are
packed as they are; results go through the checks of the protocol, which build them anyway. Code is named once per
frame, because the folds of a batch share little else and share that.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from rota.common import checks, wire
from rota.common.errors import RotaError, error_from_wire
from rota.common.work import Code, Fold, FoldResult, ReplyTo, TaskInput

_LENGTH: Final = struct.Struct("<Q")
_RUN, _PREPARE, _FINGERPRINT = "run", "prepare", "fingerprint"


class Stream(Protocol):
    """The end of a pipe."""

    def read(self, size: int, /) -> bytes | None: ...

    def write(self, data: bytes, /) -> int | None: ...

    def flush(self) -> None: ...


class Run(NamedTuple):
    """Run these folds, one after another."""

    folds: tuple[Fold, ...]


class Prepare(NamedTuple):
    """Have this code compiled, so that nobody else needs to."""

    code: Code
    address: str


class AskFingerprint(NamedTuple):
    """Say what could change a bit of a result of this pool."""

    pool: str


Request = Run | Prepare | AskFingerprint


def write_frame(stream: Stream, data: bytes) -> None:
    """Write a frame and let it go."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: Stream) -> bytes | None:
    """Return the next frame; None if the other end is gone, in the middle of a frame too."""
    head = stream.read(_LENGTH.size)
    if head is None or len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    return None if data is None or len(data) < size else data


# --- to a process ---------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """Return the frame of a request."""
    if isinstance(request, Prepare):
        return _pack((_PREPARE, request.code, request.address))
    if isinstance(request, AskFingerprint):
        return _pack((_FINGERPRINT, request.pool))
    codes = {fold.code: None for fold in request.folds}
    places = {code: place for place, code in enumerate(codes)}
    folds = [(fold.lane_seed, places[fold.code], fold.address, fold.state, fold.tasks) for fold in request.folds]
    return _pack((_RUN, tuple(codes), folds))


def decode_request(data: bytes) -> Request:
    """Return the request in a frame."""
    kind, *fields = msgpack.unpackb(data, use_list=False)
    if kind == _PREPARE:
        return Prepare(checks.code(_listed(fields[0])), fields[1])
    if kind == _FINGERPRINT:
        return AskFingerprint(fields[0])
    assert kind == _RUN, kind
    codes = [checks.code(_listed(code)) for code in fields[0]]
    return Run(
        tuple(
            [
                Fold(seed, codes[place], address, state, tuple(map(_task, tasks)))
                for seed, place, address, state, tasks in fields[1]
            ]
        )
    )


def _task(fields: Sequence[Any]) -> TaskInput:
    turn, kind, sender, payload, now_ms, reply_to, tensors, emits_max, growth = fields
    answered = None if reply_to is None else ReplyTo._make(reply_to)
    refs = tuple([checks.ref(_listed(ref)) for ref in tensors])
    return TaskInput(turn, kind, sender, payload, now_ms, answered, refs, emits_max, growth)


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, as the checks of the protocol take it."""
    return [_listed(item) for item in value] if type(value) is tuple else value


# --- and back -------------------------------------------------------------------------------------


def encode_results(results: Sequence[FoldResult]) -> bytes:
    """Return the frame that answers `Run`."""
    return _pack([([wire.outcome_fields(outcome) for outcome in one.outcomes], *one[1:]) for one in results])


def decode_results(data: bytes) -> list[FoldResult]:
    """Return the results in an answer to `Run`."""
    return [checks.completion(fields) for fields in unpack_answer(data)]


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """Return the frame that answers what is not `Run`."""
    return _pack(answer)


def encode_error(error: RotaError) -> bytes:
    """Return the frame of an error that ends it all."""
    return _pack({"error": error.code, "message": error.message})


def unpack_answer(data: bytes) -> Any:
    """Return what an answer holds. Raises the error in it."""
    answer = msgpack.unpackb(data, strict_map_key=False)
    if type(answer) is dict and "error" in answer:
        raise error_from_wire(answer["error"], answer["message"], {})
    return answer


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
