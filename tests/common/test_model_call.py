"""The payload of a model task: encoding and decoding round-trip, other bytes are `BadPayload` with a reason."""

from __future__ import annotations

import contextlib
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.common.errors import BadPayload
from rota.common.limits import INLINE_BYTES_MAX
from rota.common.model_call import (
    DTYPE_BYTES,
    Call,
    Tensor,
    decode_call,
    decode_result,
    encode_call,
    encode_result,
)
from rota.common.work import TensorRef
from rota.tensors.arrays import ALIGNMENT_BYTES, CallPacker, aligned_empty, array_of, decode_arrays, encode_arrays
from rota.tensors.format import DTYPES, numpy_dtype
from rota.tensors.store import TensorStore

REFERENCE = TensorRef(bytes(32), "float32", (2, 3))
GOOD = ["int8", [2], b"ab"]

shapes = st.lists(st.integers(0, 5), max_size=4)
names = st.text(min_size=1, max_size=20)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(st.sampled_from(sorted(DTYPE_BYTES))), draw(shapes)
    size = int(np.prod(shape, dtype=np.int64)) * DTYPE_BYTES[dtype]
    byte = st.integers(0, 1) if dtype == "bool" else st.integers(0, 255)
    return Tensor(dtype, tuple(shape), bytes([draw(byte)]) * size)


@given(st.dictionaries(names, tensors(), max_size=4), st.lists(names, max_size=3, unique=True))
def test_what_is_encoded_comes_back(inputs: dict[str, Tensor], outputs: list[str]) -> None:
    """Goal: decode(encode(call)) == call, results alike. Method: any names, types, shapes and contents."""
    assert decode_call(encode_call(inputs, outputs), ()) == Call(inputs, tuple(outputs))
    assert decode_result(encode_result(inputs), ()) == inputs


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_bad(data: bytes) -> None:
    """Goal: no bytes raise anything but `BadPayload`. Method: random ones; nearly all are bad."""
    with contextlib.suppress(BadPayload):
        decode_call(data, (REFERENCE,))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.text(max_size=5)
    | st.sampled_from(["inputs", "outputs", "float32", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["inputs", "outputs", "x"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_any_value_decodes_or_is_bad(value: Any) -> None:
    """Goal: the checks past MessagePack hold too. Method: random structures of the words of a payload."""
    try:
        call = decode_call(msgpack.packb(value), (REFERENCE,))
    except BadPayload:
        return
    assert decode_call(encode_call(call.inputs, call.outputs), (REFERENCE,)) == call


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (120, 'must be a MessagePack map with "inputs"; its bytes mean 120'),
        ({}, 'must be a MessagePack map with "inputs", got a map of 0'),
        ({"generate": {}}, 'takes named arrays (task = "tensors"), and no text: the payload has "generate"'),
        ({"inputs": {}, "more": 1}, "unknown field 'more'"),
        ({"inputs": []}, '"inputs" must be a map'),
        ({"inputs": {"": GOOD}}, "input names are text of 1 to 200 characters"),
        ({"inputs": {b"x": GOOD}}, "input names are text"),
        ({"inputs": {"x": 1}}, '"x" must be [dtype, shape, data], got 1'),
        ({"inputs": {"x": GOOD[:2]}}, "must be [dtype, shape, data]"),
        ({"inputs": {"x": ["string", [2], b""]}}, "unknown dtype 'string'; known: bool, int8"),
        ({"inputs": {"x": [["int8"], [2], b""]}}, "unknown dtype ['int8']"),
        ({"inputs": {"x": ["int8", 2, b""]}}, "has the shape 2;"),
        ({"inputs": {"x": ["int8", [-1], b""]}}, "has the shape [-1];"),
        ({"inputs": {"x": ["int8", [True], b"a"]}}, "has the shape [True];"),
        ({"inputs": {"x": ["int8", [1.0], b"a"]}}, "has the shape [1.0];"),
        ({"inputs": {"x": ["int8", [1] * 33, b"a"]}}, "a list of up to 32 counts"),
        ({"inputs": {"x": ["int8", [1 << 40], b"a"]}}, "over the"),
        ({"inputs": {"x": ["int8", [0, 1 << 47, 1 << 47], b""]}}, "over the"),
        ({"inputs": {"x": ["int16", [2], b"abc"]}}, "has 3 bytes, but int16 [2] needs 4"),
        ({"inputs": {"x": ["bool", [2], b"\0\2"]}}, "bytes other than 0 and 1"),
        ({"inputs": {"x": ["int8", [2], "ab"]}}, "must hold bin or the index of a tensor reference, got 'ab'"),
        ({"inputs": {"x": ["int8", [2], True]}}, "must hold bin or the index"),
        ({"inputs": {"x": ["float32", [2, 3], 1]}}, "points at tensor reference 1; there are 1"),
        ({"inputs": {"x": ["float32", [2, 3], -1]}}, "points at tensor reference -1"),
        ({"inputs": {"x": ["float32", [3, 2], 0]}}, "is float32 [3, 2], but tensor reference 0 is float32 [2, 3]"),
        ({"inputs": {}, "outputs": "y"}, '"outputs" must be a list'),
        ({"inputs": {}, "outputs": ["y", "y"]}, "names an output twice"),
        ({"inputs": {str(n): GOOD for n in range(257)}}, "257 inputs are more than the 256"),
    ],
)
def test_what_is_wrong_is_named(payload: Any, words: str) -> None:
    """Goal: each rule has its own words. Method: one payload that breaks it."""
    with pytest.raises(BadPayload) as caught:
        decode_call(msgpack.packb(payload), (REFERENCE,))
    assert words in caught.value.message


def test_a_name_that_occurs_twice_is_refused() -> None:
    """Goal: no decoder may choose. Method: a map with two entries of one name, which packb cannot make."""
    tensor = msgpack.packb(GOOD)
    twice = b"\x81" + msgpack.packb("inputs") + b"\x82" + (msgpack.packb("x") + tensor) * 2
    with pytest.raises(BadPayload, match="twice"):
        decode_call(twice, ())


def test_payloads_take_every_dtype_of_the_store_but_complex_numbers() -> None:
    """Goal: the two lists of dtypes stay one. Method: compare them, and their widths with numpy's."""
    assert [name for name in DTYPES if not name.startswith("complex")] == [
        name for name in DTYPES if name in DTYPE_BYTES
    ]
    assert sorted(DTYPE_BYTES) == sorted(name for name in DTYPES if not name.startswith("complex"))
    assert all(numpy_dtype(name).itemsize == width for name, width in DTYPE_BYTES.items())


def test_arrays_travel_inline_or_through_the_store(tmp_path: Any) -> None:
    """Goal: small arrays are in the payload, large ones in the store, and both come back as they were."""
    store = TensorStore(tmp_path)
    arrays = {
        "small": np.arange(5),
        "half": np.ones((2, 2), ml_dtypes.bfloat16),
        "none": np.empty((0, 3), np.float32),
        "large": np.arange(1 << 15, dtype=np.float32).reshape(2, -1).T,  # not in C order
    }
    payload, references = encode_arrays(arrays, ["y"], store=store)
    assert [reference.shape for reference in references] == [(1 << 14, 2)]
    call = decode_call(payload, references)
    assert call.outputs == ("y",)
    result = encode_result(call.inputs)
    for name, array in decode_arrays(result, references, store).items():
        assert (array.dtype, array.tolist()) == (arrays[name].dtype, arrays[name].tolist())
        assert not array.flags.writeable
    inline, none = encode_arrays(arrays, store=None)
    assert none == ()
    assert decode_call(inline, ()).inputs["large"].data == arrays["large"].tobytes()
    with pytest.raises(BadPayload, match="no tensor store here"):
        array_of(call.inputs["large"], references, None)
    with pytest.raises(BadPayload, match="cannot be sent to a model"):
        encode_arrays({"x": np.array(["text"])}, store=None)


@given(st.lists(st.dictionaries(names, tensors(), max_size=3), max_size=4))
def test_calls_packed_with_kept_heads_have_the_same_bytes(calls: list[dict[str, Tensor]]) -> None:
    """Goal: a client that keeps the heads of its calls sends what `encode_arrays` gives. Method: calls of any names,
    dtypes and shapes in a row, each one twice, the second time with other data; and one too large to be all inline.
    """
    packer = CallPacker(None)
    large = {"a": np.zeros(INLINE_BYTES_MAX // 8), "b": np.ones(1, np.int8)}
    for arrays in [*[{name: array_of(one, (), None) for name, one in call.items()} for call in calls], large]:
        other = {name: np.zeros_like(array) for name, array in arrays.items()}
        for inputs in (arrays, other, arrays):
            assert packer.pack(inputs) == encode_arrays(inputs, store=None)


def test_a_packer_refuses_what_no_model_takes(tmp_path: Any) -> None:
    """Goal: kept names of dtypes let no other dtype pass, and a large array goes into the store."""
    packer = CallPacker(TensorStore(tmp_path))
    packer.pack({"x": np.ones(2, "<f4")})
    for dtype in (">f4", "c8", "U4"):
        with pytest.raises(BadPayload, match="cannot be sent to a model"):
            packer.pack({"x": np.zeros(2, dtype)})
    payload, references = packer.pack({"x": np.zeros(INLINE_BYTES_MAX // 4 + 1, np.float32)})
    assert [reference.shape for reference in references] == [(INLINE_BYTES_MAX // 4 + 1,)]
    assert decode_call(payload, references).inputs["x"].data == 0


@pytest.mark.parametrize("depth", [60, 900, 1_015, 1_020])
def test_a_payload_of_any_depth_is_refused_in_a_few_words(depth: int) -> None:
    """Goal: no payload can end the worker that reads it. Method: lists inside each other, as deep as the decoder lets
    them be: `repr` of them runs out of stack. Found by tests/fuzz.
    """
    with pytest.raises(BadPayload, match="got a list of 1"):
        decode_call(b"\x81\xa6inputs" + b"\x91" * depth + b"\xc0", ())


@pytest.mark.parametrize("shape", [(), (3, 5), (1000,)])
def test_own_buffers_start_at_a_multiple_of_64_bytes(shape: tuple[int, ...]) -> None:
    """Goal: alignment never varies. Method: many buffers of sizes that the allocator places differently."""
    for _ in range(20):
        array = aligned_empty(np.dtype(np.float64), shape)
        assert array.ctypes.data % ALIGNMENT_BYTES == 0
        assert array.shape == shape
