"""The frames between `rota verify` and its worker processes: folds out, results back. PURE.

A frame is a length of eight bytes and that many bytes of MessagePack. Folds and results have the protocol's encoding
and checks. Code is written once per frame, because the folds of a batch usually share it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from rota.common.digests import pack
from rota.common.errors import RotaError, error_from_wire
from rota.common.fields import Blob, Count, Digest, Index, Target
from rota.common.outcomes import FoldResults
from rota.common.shape import Shape
from rota.common.work import Code, Fold, FoldResult, Past, TaskInput

_LENGTH: Final = struct.Struct("<Q")


class Stream(Protocol):
    """The end of a pipe."""

    def read(self, size: int, /) -> bytes | None: ...

    def write(self, data: bytes, /) -> int | None: ...

    def flush(self) -> None: ...


class RunFolds(NamedTuple):
    """Run these folds, one after another."""

    folds: tuple[Fold, ...]


class PrepareCode(NamedTuple):
    """Compile this code, so that no other process needs to."""

    code: Code
    address: str


class AskFingerprint(NamedTuple):
    """Ask for the fingerprint of this pool."""

    pool: str


Request = RunFolds | PrepareCode | AskFingerprint


def write_frame(stream: Stream, data: bytes) -> None:
    """Write a frame and flush it."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: Stream) -> bytes | None:
    """Return the next frame; None at the end of the stream, even in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if head is None or len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    return None if data is None or len(data) < size else data


# --- to a process ---------------------------------------------------------------------------------


class _Folds(NamedTuple):
    """Run these folds: the list of codes, and for each fold its seed, code (an index) and the rest of its fields."""

    codes: tuple[Code, ...]
    folds: tuple[tuple[Digest, Index, Target, Blob | None, tuple[TaskInput, ...], tuple[Count, ...], Past | None], ...]


_SHAPES: Final = {0: Shape(_Folds, 0), 1: Shape(PrepareCode, 1), 2: Shape(AskFingerprint, 2)}
_TAG_OF: Final = {shape.cls: tag for tag, shape in _SHAPES.items()}
_results: Final = msgspec.msgpack.Decoder(FoldResults | dict[str, Any])


def encode_request(request: Request) -> bytes:
    """Return the frame of a request."""
    if not isinstance(request, RunFolds):
        return pack((_TAG_OF[type(request)], *request))
    codes = {fold.code: None for fold in request.folds}
    places = {code: place for place, code in enumerate(codes)}
    folds = [(fold.lane_seed, places[fold.code], *fold[2:]) for fold in request.folds]
    return pack((_TAG_OF[_Folds], tuple(codes), folds))


def decode_request(data: bytes) -> Request:
    """Return the request in a frame."""
    request: PrepareCode | AskFingerprint | _Folds = _SHAPES[data[1]].decode(data)
    if not isinstance(request, _Folds):
        return request
    codes, folds = request
    rows = [Fold(fold[0], codes[fold[1]], *fold[2:]) for fold in folds]
    return RunFolds(tuple(rows))


# --- answers --------------------------------------------------------------------------------------


def encode_results(results: Sequence[FoldResult]) -> bytes:
    """Return the frame that answers `RunFolds`."""
    return pack(FoldResults.of(results))


def decode_results(data: bytes) -> list[FoldResult]:
    """Return the results in an answer to `RunFolds`. Raises the error in it."""
    return list(_raise_error(_results.decode(data)))


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """Return the frame that answers the other requests."""
    return pack(answer)


def encode_error(error: RotaError) -> bytes:
    """Return the frame of an error that ends the verification."""
    return pack({"error": error.code, "message": error.message})


def unpack_answer(data: bytes) -> Any:
    """Return the content of an answer. Raises the error in it."""
    return _raise_error(msgspec.msgpack.decode(data))


def _raise_error(answer: Any) -> Any:
    if type(answer) is dict and "error" in answer:
        raise error_from_wire(answer["error"], answer["message"], {})
    return answer
