"""Fuzz targets: payloads, model calls, tensor files, and what a guest returns.

Payloads are a producer's bytes in a worker, so a bad one must raise `BadPayload` or `TensorError` and nothing else:
another exception ends the worker. What a guest returns must become an outcome that the broker accepts, or the broker
would expel the worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy
import text_call_strategies
from _fuzz_engine import Check, Target, check_words
from _fuzz_mutators import mutate_bytes, mutate_msgpack
from hypothesis import strategies as st
from wire_strategies import TARGET

from rota.common import limits, messages, wire
from rota.common.bundle import decode_bundle, encode_bundle, new_bundle
from rota.common.errors import BadPayload, BadTarget, CodeError, TensorError
from rota.common.model_call import (
    DTYPE_BYTES,
    Call,
    Tensor,
    decode_call,
    decode_result,
    encode_call,
    encode_result,
)
from rota.common.outcomes import FoldResults
from rota.common.text_calls import decode_text_call, encode_text_call
from rota.common.text_results import decode_text_result, encode_text_result
from rota.common.work import Done, Failed, FoldResult, Limits, TaskInput, TensorRef
from rota.cpu_worker import abi
from rota.cpu_worker.open_turns import OpenTurns
from rota.cpu_worker.task_log import TaskLog
from rota.tensors.format import DTYPES, check_tensor, dtype_name, npy_header, numpy_dtype
from rota.tensors.payloads import Payloads
from rota.tensors.store import TensorStore
from rota.tensors.values import pack_value, unpack_value

REFS = (
    TensorRef(bytes(32), "int8", (3,)),
    TensorRef(b"\1" * 32, "float32", (2, 2)),
    TensorRef(b"\2" * 32, "bool", (2,)),
)

_KEYS = st.one_of(st.text(max_size=4), st.binary(max_size=4), st.integers(-9, 1 << 64 - 1))
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text(max_size=9),
    st.binary(max_size=9), st.sampled_from(REFS), st.just(msgpack.Timestamp(1, 5)),
    st.sampled_from([numpy.zeros(shape, dtype) for shape in ((), (0, 3), (2, 2)) for dtype in ("bool", "int8", "<f4")]),
)  # fmt: skip
VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=10
)


_PATHS = st.lists(st.sampled_from(("a", "b", "data.bin", "ü")), min_size=1, max_size=3).map("/".join)
BUNDLES = st.builds(
    lambda entry, args, env, names: encode_bundle(
        new_bundle(
            bytes(32), entry=entry, args=args, env=env,
            files={entry or "main": b"x", **{f"lib/{name}/end": b"\0" * 40 for name in names}},
        )
    ),
    st.sampled_from(("", "main.py")), st.lists(st.text(max_size=3).filter(lambda text: "\0" not in text), max_size=3),
    st.dictionaries(st.sampled_from(("A", "B", "PATH")), st.just("1"), max_size=3), st.lists(_PATHS, max_size=3),
)  # fmt: skip


def check_bundle(data: bytes) -> bool:
    """A bundle is in its one form, and everything else is refused in words."""
    try:
        bundle = decode_bundle(data)
    except CodeError as error:
        check_words(error.message)
        return False
    assert encode_bundle(bundle) == data
    return True


def check_value(payload: bytes) -> bool:
    """Unpack; the value, packed again, gives canonical bytes, which round-trip."""
    try:
        value = unpack_value(payload, REFS, None)
    except (BadPayload, TensorError) as error:
        check_words(error.message)
        return False
    try:
        once = pack_value([value], None)
    except BadPayload:
        return False  # too deep, too large, or a float as a key: accepted but never made
    assert pack_value(unpack_value(*once, None), None) == once
    return True


def packed(value: Any) -> bytes:
    payload, _ = pack_value([value], None)
    return payload


# --- models -------------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(list(DTYPE_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(REFS) - 1))
        return Tensor(REFS[at].dtype, REFS[at].shape, at)
    size = check_tensor(dtype, shape)
    return Tensor(dtype, shape, bytes(size) if dtype == "bool" else draw(st.binary(min_size=size, max_size=size)))


_NAMED = st.dictionaries(st.text(min_size=1, max_size=6), tensors(), max_size=3)
_WANTED = st.lists(st.text(min_size=1, max_size=6), max_size=3, unique=True)


def check_call(payload: bytes) -> bool:
    """Decode a model task; its content, encoded again, means the same."""
    try:
        call = decode_call(payload, REFS)
    except BadPayload as error:
        check_words(error.message)
        return False
    assert _canonical(decode_call(encode_call(call.inputs, call.outputs), REFS)) == _canonical(call)
    return True


def check_result(payload: bytes) -> bool:
    try:
        outputs = decode_result(payload, REFS)
    except BadPayload as error:
        check_words(error.message)
        return False
    assert decode_result(encode_result(outputs), REFS) == outputs
    return True


def check_text_call(payload: bytes) -> bool:
    """Decode a text task; what it is, encoded again, is the same."""
    try:
        call = decode_text_call(payload)
    except BadPayload as error:
        check_words(error.message)
        return False
    assert decode_text_call(encode_text_call(call)) == call
    return True


def check_text_result(payload: bytes) -> bool:
    try:
        result = decode_text_result(payload, REFS)
    except BadPayload as error:
        check_words(error.message)
        return False
    assert decode_text_result(encode_text_result(result), REFS) == result
    return True


def _canonical(call: Call) -> tuple[Any, ...]:
    return call.inputs, call.outputs


# --- tensors ------------------------------------------------------------------------------------------------------


def check_tensor_words(fields: bytes) -> bool:
    """Ask for tensors with any dtype and shape, valid or not."""
    try:
        value = msgpack.unpackb(fields, strict_map_key=False)
        dtype, shape = value
    except (ValueError, TypeError, msgpack.UnpackException):
        return False
    shape = tuple(shape) if isinstance(shape, list) else shape
    try:
        size = check_tensor(dtype, shape)
        header = npy_header(dtype, shape)
        found = numpy_dtype(dtype)
    except TensorError as error:
        check_words(error.message)
        return False
    assert len(header) % 64 == 0
    assert dtype_name(found) == dtype
    assert size == found.itemsize * numpy.prod(shape, dtype=object)
    return True


def start_tensor_file(folder: Path) -> Check:
    """Open a sealed file whose bytes were changed: it is that tensor, bit by bit, or a `TensorError`."""
    store = TensorStore(folder / "tensors")

    def check(case: tuple[str, tuple[int, ...], bytes]) -> bool:
        dtype, shape, content = case
        array = _sample(dtype, shape)
        ref = store.put(array, durable=False)
        path = store.root / ref.digest.hex()[:2] / ref.digest.hex()[2:4] / f"{ref.digest.hex()}.npy"
        path.unlink()
        path.write_bytes(content)
        try:
            found = store.open(ref, verify=True)
        except TensorError as error:
            check_words(error.message)
            return False
        assert found.tobytes() == array.tobytes()
        return True

    return check


def _sample(dtype: str, shape: tuple[int, ...]) -> Any:
    size = check_tensor(dtype, shape)
    raw = bytes([n % 2 for n in range(size)])
    return numpy.frombuffer(raw, numpy.uint8).view(numpy_dtype(dtype)).reshape(shape)


def _tensor_file(kind: tuple[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...], bytes]:
    return *kind, npy_header(*kind) + _sample(*kind).tobytes()


def mutate_tensor_file(rng: Any, case: Any, other: Any) -> Any:
    return *case[:2], mutate_bytes(rng, case[2], other[2])


# --- agents -------------------------------------------------------------------------------------------------------

_TASK = TaskInput(1, "tell", None, b"", 0, None, REFS, 4, 4_000)
_LIMITS = Limits(emits_max=8, result_bytes=16, state_bytes=16, log_bytes=40)
_LOG = st.lists(st.text(max_size=12), max_size=3)
_EMITS = st.lists(
    st.tuples(
        TARGET | st.just("counter/alice"), st.binary(max_size=5), st.integers(-8, 7),
        st.sampled_from(("tell", "ask", "timer")), st.lists(st.integers(0, 2), max_size=2), st.sampled_from((0, 0, 5)),
        st.sampled_from((0, 0, 0, 1, 7, 8)),
    ).flatmap(lambda emit: st.integers(2, 7).map(lambda fields: list(emit[:fields])))
    | st.builds(lambda kind, payload, turn: ["counter/alice", payload, 0, kind, [], 0, turn],
                st.sampled_from(("reply", "failure")),
                st.binary(max_size=5) | st.just(msgpack.packb(["error", "code: no"])), st.sampled_from((7, 8, 9))),
    max_size=4,
)  # fmt: skip
_WAITS = st.none() | st.sampled_from(("", "flow.py:3"))
OUTPUTS = st.one_of(
    st.tuples(st.just(1), st.just(0), st.none() | st.binary(max_size=16), st.none() | st.binary(max_size=16), _EMITS,
              _LOG, st.lists(st.integers(0, 2), max_size=3)),
    st.tuples(st.just(1), st.just(0), st.none() | st.binary(max_size=16), st.none(), _EMITS, _LOG, st.just([]), _WAITS),
    st.tuples(st.just(1), st.just(1), st.text(min_size=1, max_size=9), st.text(max_size=9), _LOG),
).map(msgpack.packb)  # fmt: skip


def check_output(data: bytes) -> bool:
    """Anything a guest returns is an outcome, always the same, and the broker's decoder accepts it: whether it is the
    guest of an agent that may settle turns 7 and 8, or of a call.
    """
    taken = [_check_output_of(data, call) for call in (None, REFS[:1])]
    return any(taken)


def _check_output_of(data: bytes, call: Sequence[TensorRef] | None) -> bool:
    (outcome, state), again = [
        abi.decode_output(
            data,
            address="counter/alice" if call is None else "counter/~1",
            state=b"12" if call is None else None,
            task=_TASK,
            limits=_LIMITS,
            fuel=9,
            log=TaskLog(_LIMITS.log_bytes),
            open_turns=OpenTurns((7, 8) if call is None else ()),
            call=call,
        )
        for _ in range(2)
    ]
    assert again == (outcome, state)
    assert isinstance(outcome, Done | Failed)
    message = messages.Completed("w1", 1, FoldResults.of((FoldResult((outcome,), state),)), 5)
    assert wire.decode(wire.encode(message), wire.FROM_WORKERS) == message
    if isinstance(outcome, Failed):
        assert outcome.kind in ("error", "bad_output", "overflow", "bad_settle")
        assert state is None
        assert len(outcome.message) <= limits.MESSAGE_CHARS_MAX
    else:
        assert (state is None) == (outcome.state_digest is None)
        assert len(outcome.emits) + (outcome.waits is not None) <= _TASK.emits_max
        assert outcome.waits is None or (outcome.result is None and not outcome.tensors)
        named = [emit.answers for emit in outcome.emits if emit.answers]
        assert len(named) == len({*named}), "a turn was answered twice"
        assert {*named} <= ({7, 8, _TASK.turn} if call is None else set())
    return isinstance(outcome, Done)


# --- what a client sends ------------------------------------------------------------------------------------------

_ODD = st.sampled_from(
    (object(), 1j, {1, 2}, numpy.float64(2), numpy.array([None]), [[]] * 3, "\ud800", 1 << 70, {None: 1})
)


def check_pack(case: tuple[str, Any]) -> bool:
    """A client packs any value for any target, or raises an error that says what cannot be sent."""
    target, value = case
    try:
        payload, refs = Payloads(None).pack(target, value)
    except (BadPayload, BadTarget, TensorError):
        return False
    assert isinstance(payload, bytes)
    assert len(payload) <= limits.PAYLOAD_BYTES_MAX
    assert len(refs) <= limits.TENSORS_PER_TASK_MAX
    return True


def mutate_pack(rng: Any, case: Any, other: Any) -> Any:
    """Nest the value, or add another one beside it."""
    target, value = case
    for _ in range(rng.choice((1, 1, 3, 70, 1_500))):
        value = rng.choice(([value], {"k": value}, (value, other[1])))
    return rng.choice((target, other[0])), value


_KINDS = st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (3,), (0, 2), (2, 2, 2)]))

TARGETS = [
    Target("payload-value", VALUES.map(packed), mutate_msgpack, lambda _: check_value, bases=40, damaged=20,
           finds=(
               msgpack.packb([msgpack.ExtType(1, b"\x93\xa4int8\x91" + b"\x91" * 1_018 + b"\xc0\x00")]),
               msgpack.packb([msgpack.ExtType(1, msgpack.packb(["int8", [-1] * 9_000, 0]))]),
               b"\x91\xc7\x09\x01\x93\x84int8\x91\x03\x00",
           )),
    Target("model-call", st.builds(encode_call, _NAMED, _WANTED), mutate_msgpack, lambda _: check_call, bases=40,
           damaged=20, finds=(b"\x81\xa6inputs" + b"\x91" * 1_020 + b"\xc0",)),
    Target("model-result", st.builds(encode_result, _NAMED), mutate_msgpack, lambda _: check_result, damaged=20),
    Target("text-call", text_call_strategies.calls.map(encode_text_call), mutate_msgpack, lambda _: check_text_call,
           bases=40, damaged=20),
    Target("text-result", text_call_strategies.results.map(encode_text_result), mutate_msgpack,
           lambda _: check_text_result, damaged=20),
    Target("tensor-words", _KINDS.map(msgpack.packb), mutate_msgpack, lambda _: check_tensor_words, damaged=20),
    Target("tensor-file", _KINDS.map(_tensor_file), mutate_tensor_file, start_tensor_file, bases=12, damaged=6),
    Target("agent-output", OUTPUTS, mutate_msgpack, lambda _: check_output, bases=40, damaged=20),
    Target("bundle", BUNDLES, mutate_msgpack, lambda _: check_bundle, bases=40, damaged=20,
           finds=(b"\x96\x01" + b"\x91" * 1_020 + b"\xc0",)),
    Target("client-payload", st.tuples(TARGET, VALUES | _ODD), mutate_pack, lambda _: check_pack, damaged=6),
]  # fmt: skip
