"""tensors/values.py: values to payloads and back, one encoding per value, and what is refused."""

from __future__ import annotations

import enum
import math
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.common.errors import BadPayload, TensorError
from rota.common.limits import (
    INLINE_BYTES_MAX,
    INLINE_TOTAL_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TENSORS_PER_TASK_MAX,
    VALUE_DEPTH_MAX,
)
from rota.common.work import TensorRef
from rota.tensors.format import DTYPES, check_tensor, inline_bytes_max, numpy_dtype
from rota.tensors.store import TensorStore
from rota.tensors.values import TENSOR_EXTENSION, pack_value, unpack_value

LARGE = numpy.arange(INLINE_BYTES_MAX // 4 + 1, dtype=numpy.int32)

keys = st.one_of(st.text(max_size=8), st.binary(max_size=8), st.integers(-(1 << 63), (1 << 64) - 1))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)
arrays = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3).map(tuple)).flatmap(
    lambda kind: st.binary(min_size=(size := check_tensor(*kind)), max_size=size).map(
        lambda raw: numpy.frombuffer(raw, numpy.uint8).view(numpy_dtype(kind[0])).reshape(kind[1])
    )
)


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "tensors")


def through(value: Any, store: TensorStore | None = None) -> Any:
    payload, tensors = pack_value(value, store)
    return unpack_value(payload, tensors, store)


@given(values)
def test_round_trip(value: Any) -> None:
    """Goal: what is packed comes back, and again as the same bytes. Method: any value; bytes stand in a list."""
    payload, tensors = pack_value([value], None)
    back = unpack_value(payload, tensors, None)
    assert back == [value]
    assert tensors == []
    assert pack_value(back, None) == (payload, [])


@given(
    st.dictionaries(keys, st.integers(), max_size=8).filter(
        lambda value: all(abs(v) < 1 << 63 for v in value.values())
    ),
    st.randoms(),
)
def test_one_encoding_per_map(value: dict[Any, int], random: Any) -> None:
    """Goal: the order in which a dict was filled does not show. Method: shuffle; the keys' bytes must be ascending."""
    pairs = list(value.items())
    random.shuffle(pairs)
    payload, _ = pack_value(value, None)
    assert pack_value(dict(pairs), None)[0] == payload
    found = msgpack.unpackb(payload, strict_map_key=False, object_pairs_hook=lambda found: [key for key, _ in found])
    encoded = [msgpack.packb(key) for key in found]
    assert encoded == sorted(encoded)


def test_one_encoding_per_scalar() -> None:
    """Goal: canonical forms. Method: all ways to write a value, and the bytes that the specification gives."""

    class Colour(enum.IntEnum):
        RED = 3

    noisy_nan = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]
    cases: list[tuple[str, list[Any]]] = [
        ("cb7ff8000000000000", [math.nan, -math.nan, noisy_nan, numpy.float64("nan"), numpy.float32("nan")]),
        ("cb8000000000000000", [-0.0, numpy.float32(-0.0)]),
        ("cb3ff8000000000000", [1.5, numpy.float16(1.5), numpy_dtype("bfloat16").type(1.5)]),
        ("03", [3, Colour.RED, numpy.uint64(3), numpy.int8(3)]),
        ("cfffffffffffffffff", [(1 << 64) - 1, numpy.uint64((1 << 64) - 1)]),
        ("c3", [True, numpy.True_]),
        ("a161", ["a", numpy.str_("a")]),
        ("9101", [[1], (1,)]),
        ("8203c0a16201", [{"b": 1, 3: None}, {3: None, "b": 1}, {numpy.int64(3): None, "b": 1}]),
    ]
    for encoded, forms in cases:
        for form in forms:
            assert pack_value(form, None)[0].hex() == encoded, form


def test_bytes_are_not_packed() -> None:
    """Goal: agents with a format of their own. Method: whole payloads of bytes, and bytes inside a value."""
    for form in (b"abc", bytearray(b"abc"), memoryview(b"abc")):
        assert pack_value(form, None) == (b"abc", [])
        assert through([form]) == [b"abc"]


@given(arrays)
def test_inline_arrays(array: Any) -> None:
    """Goal: bits, dtype and shape come back, aligned and read-only. Method: small arrays of any dtype and bits."""
    payload, tensors = pack_value({"x": array}, None)
    found = unpack_value(payload, tensors, None)["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert found.size == 0 or found.ctypes.data % 64 == 0
    assert not found.flags.writeable


def test_bytes_of_an_inline_array() -> None:
    """Goal: the encoding of docs/TENSORS.md. Method: written down."""
    payload, _ = pack_value(numpy.array([1, 2], numpy.uint8), None)
    assert payload == bytes([0xC7, 13, 1, 0x93, 0xA5]) + b"uint8" + bytes([0x91, 2, 0xC4, 2, 1, 2])


def test_large_arrays_go_through_the_store(store: TensorStore) -> None:
    """Goal: large arrays once each, in the order of the canonical value. Method: three uses of two arrays."""
    value = {"b": LARGE, "a": [LARGE[::-1], LARGE.copy()], "small": LARGE[:3]}
    payload, tensors = pack_value(value, store)
    assert tensors == [store.put(LARGE[::-1]), store.put(LARGE)]
    assert len(payload) < 200
    found = unpack_value(payload, tensors, store)
    numpy.testing.assert_array_equal(found["b"], LARGE)
    numpy.testing.assert_array_equal(found["a"][0], LARGE[::-1])
    numpy.testing.assert_array_equal(found["small"], LARGE[:3])
    assert not found["b"].flags.writeable


def test_many_small_arrays_go_through_the_store_together(store: TensorStore) -> None:
    """Goal: no gap between the bound of one array and that of a payload. Method: 17 arrays of just that size beside
    smaller ones and one over it; the same bytes whatever the order of the map.
    """
    value = {f"k{n:02}": numpy.full(INLINE_BYTES_MAX, n, numpy.uint8) for n in range(17)}
    value |= {"small": numpy.arange(8), "large": numpy.zeros(INLINE_BYTES_MAX + 1, numpy.uint8)}
    payload, tensors = pack_value(value, store)
    assert len(payload) < 2_000
    assert [ref.shape for ref in tensors] == [(INLINE_BYTES_MAX + 1,)] + [(INLINE_BYTES_MAX,)] * 17
    assert pack_value(dict(reversed(value.items())), store) == (payload, tensors)
    found = unpack_value(payload, tensors, store)
    assert all((found[key] == array).all() for key, array in value.items())
    few = [value["k00"]] * (INLINE_TOTAL_BYTES_MAX // INLINE_BYTES_MAX)
    assert pack_value(few, store)[1] == []


@given(st.lists(st.integers(0, 2 * INLINE_BYTES_MAX)))
def test_what_is_inline_fits(sizes: list[int]) -> None:
    """Goal: the rule for inline tensors. Method: any sizes; the sum fits, and one more size would not."""
    bound = inline_bytes_max(sizes)
    assert bound == inline_bytes_max(reversed(sizes)) <= INLINE_BYTES_MAX
    assert sum(size for size in sizes if size <= bound) <= INLINE_TOTAL_BYTES_MAX
    if bound < INLINE_BYTES_MAX:
        assert sum(size for size in sizes if size <= bound + 1) > INLINE_TOTAL_BYTES_MAX


def test_without_a_store(store: TensorStore) -> None:
    """Goal: a producer on another host can still send what fits, and sees references. Method: no store on either
    side."""
    payload, tensors = pack_value(LARGE, None)
    assert tensors == []
    numpy.testing.assert_array_equal(unpack_value(payload, [], None), LARGE)
    payload, tensors = pack_value([LARGE], store)
    assert unpack_value(payload, tensors, None) == tensors


def test_references_are_forwarded(store: TensorStore) -> None:
    """Goal: a tensor can be passed on without being read. Method: a reference to nothing, and a real one."""
    ref = TensorRef(bytes(32), "int8", (3,))
    payload, tensors = pack_value({"x": ref, "y": ref}, None)
    assert tensors == [ref]
    with pytest.raises(TensorError, match="not in the store"):
        unpack_value(payload, tensors, store)
    numpy.testing.assert_array_equal(through({"x": store.put(LARGE[:5])}, store)["x"], LARGE[:5])


def test_timestamps_pass() -> None:
    """Goal: MessagePack's own extension survives. Method: one with nanoseconds."""
    assert through([msgpack.Timestamp(1, 5)]) == [msgpack.Timestamp(1, 5)]


def cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


class Odd(str):
    """A str that equals nothing, so that a dict holds it twice."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"a": [1, {2}]}, "value['a'][1]", "type set.*sorted list"),
        ({"a": {7: object()}}, "value['a'][7]", "type object"),
        ([1j], "value[0]", "type complex"),
        ([numpy.complex64(1)], "value[0]", "complex64.*as an array"),
        ([numpy.longdouble(1)], "value[0]", "longdouble.*as an array"),
        ([numpy.datetime64("2026-11-22")], "value[0]", "datetime64"),
        ([1 << 64], "value[0]", "integer outside"),
        ({"k": -(1 << 63) - 1}, "value['k']", "integer outside"),
        (["\ud800"], "value[0]", "surrogate"),
        ({"\ud800": 1}, r"value['\ud800']", "surrogate"),
        ({1.5: 1}, "value", "key of type float"),
        ([{True: 1}], "value[0]", "key of type bool"),
        ({None: 1}, "value", "key of type NoneType"),
        ({Odd("a"): 1, Odd("a"): 2}, "value", "two keys that are packed alike: 'a'"),
        ([numpy.array([None])], "value[0]", "cannot be stored"),
        ([numpy.zeros(2, ">i4")], "value[0]", "big-endian"),
        ([numpy.ma.masked_array([1], [True])], "value[0]", "masked array"),
        ([TensorRef(b"", "int8", (1,))], "value[0]", "digest is not 32 bytes"),
        ([TensorRef(bytes(32), "int8", (-1,))], "value[0]", "wrong tensor reference"),
        (
            [TensorRef(bytes(31) + bytes([n]), "int8", (1,)) for n in range(256)]
            + [TensorRef(bytes(32), "int16", (1,))],
            "value[256]",
            "stack some",
        ),
        (cycle(), "value" + "[0]" * (VALUE_DEPTH_MAX + 1), "contains itself"),
        ({"x" * 100: object()}, "value['" + "x" * 59 + "...]", "type object"),
    ],
)
def test_refused_with_its_path(value: Any, path: str, message: str) -> None:
    """Goal: the error names the place in the value. Method: one of each sort, at some depth."""
    with pytest.raises(BadPayload, match=message) as caught:
        pack_value(value, None)
    assert caught.value.fields["path"] == path
    assert caught.value.message.startswith(path)


def test_size_limit(store: TensorStore) -> None:
    """Goal: the bound of a payload, with the remedy. Method: bytes, a value and an array just over it."""
    assert TENSORS_PER_TASK_MAX == 256
    assert len(pack_value(bytes(PAYLOAD_BYTES_MAX), None)[0]) == PAYLOAD_BYTES_MAX
    for value in (bytes(PAYLOAD_BYTES_MAX + 1), ["x" * PAYLOAD_BYTES_MAX], numpy.zeros(PAYLOAD_BYTES_MAX, numpy.uint8)):
        with pytest.raises(BadPayload, match=r"a task takes 1048576.*tensor store"):
            pack_value(value, None)
    assert len(pack_value(numpy.zeros(PAYLOAD_BYTES_MAX, numpy.uint8), store)[1]) == 1


REF = TensorRef(bytes(32), "int8", (3,))


def tensor(*fields: Any) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(TENSOR_EXTENSION, msgpack.packb(fields))))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not a MessagePack value"),
        (b"\xc1", "not a MessagePack value"),
        (b"\x01\x02", "ExtraData"),
        (b"\xa2a", "not a MessagePack value"),
        (b"\xa1\xff", "not a MessagePack value"),
        (b"\x91" * 2000, "not a MessagePack value"),
        (b"\xdd\xff\xff\xff\xff", "not a MessagePack value"),
        (b"\x82\x01\x01\x01\x02", "a key comes twice"),
        (b"\x81\x90\x01", "key is a list"),
        (b"\xd4\x05\x00", "unknown MessagePack extension type 5"),
        (b"\xd4\x01\xc1", "not a MessagePack value"),
        (b"\xc7\x03\x01\x81\x90\x01", "key is a list"),
        (b"\xd4\x01\x00", r"not \[dtype"),
        (tensor("int8", 3, b"abc"), r"not \[dtype"),
        (tensor("int9", [3], b"abc"), "no dtype"),
        (tensor(["int8"], [3], b"abc"), "no dtype"),
        (tensor("int8", [-3], b"abc"), "length that is not"),
        (tensor("int8", [[]], b"abc"), "length that is not"),
        (tensor("int8", [3], b"ab"), "neither 3 bytes of data nor"),
        (tensor("int8", [3], 1), "nor the index"),
        (tensor("int8", [3], -1), "nor the index"),
        (tensor("int8", [3], True), "nor the index"),
        (tensor("int8", [4], 0), "nor the index"),
        (tensor("uint8", [3], 0), "nor the index"),
    ],
)
def test_unpack_refuses(payload: bytes, message: str) -> None:
    """Goal: a typed error for each rule. Method: one payload per rule, with one tensor beside it."""
    with pytest.raises(BadPayload, match=message):
        unpack_value(payload, [REF], None)


@settings(max_examples=300)
@given(
    st.one_of(st.binary(max_size=40), st.binary(max_size=30).map(lambda data: b"\xc7" + bytes([len(data), 1]) + data))
)
def test_any_bytes_unpack_or_raise(payload: bytes) -> None:
    """Goal: no other exception, and what was packed once is canonical. Method: arbitrary bytes, also as a tensor."""
    try:
        once = pack_value([unpack_value(payload, [REF], None)], None)
    except BadPayload:
        return
    assert pack_value(unpack_value(*once, None), None) == once
