"""Forms of calls: the same as `decode_call`, for calls of every kind and for payloads damaged in every way."""

from __future__ import annotations

from random import Random

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.common.errors import BadPayload
from rota.common.model_call import DTYPE_BYTES, Call, Tensor, decode_call, encode_call
from rota.common.work import TensorRef
from rota.gpu_worker.call_forms import FORMS_OF_A_SIZE, SIZES_KEPT, CallForms, InlineCall

REFERENCES = (TensorRef(bytes(32), "float32", (2, 2)),)


def tensors() -> st.SearchStrategy[Tensor]:
    def of(dtype: str, shape: list[int]) -> st.SearchStrategy[Tensor]:
        size = DTYPE_BYTES[dtype]
        for extent in shape:
            size *= extent
        data = st.binary(min_size=size, max_size=size)
        if dtype == "bool":
            data = data.map(lambda bytes_: bytes(byte & 1 for byte in bytes_))
        return data.map(lambda bytes_: Tensor(dtype, tuple(shape), bytes_))

    shapes = st.lists(st.integers(0, 5), max_size=3)
    dtypes = st.sampled_from(["bool", "int8", "float32", "int64"])
    return st.tuples(dtypes, shapes).flatmap(lambda pair: of(*pair)) | st.just(Tensor("float32", (2, 2), 0))


CALLS = st.builds(
    Call,
    st.dictionaries(st.text(min_size=1, max_size=3), tensors(), max_size=3),
    st.lists(st.sampled_from(["y", "z"]), unique=True).map(tuple),
)


def both_ways(forms: CallForms, payload: bytes) -> None:
    try:
        expected: Call | str = decode_call(payload, REFERENCES)
    except BadPayload as error:
        expected = error.message
    try:
        decoded = forms.decode(payload, REFERENCES)
        found: Call | str = decoded.call() if isinstance(decoded, InlineCall) else decoded
    except BadPayload as error:
        found = error.message
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(CALLS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_forms_decode_as_decode_call(calls: list[Call], random: Random) -> None:
    """Goal: the short way changes nothing. Method: payloads, other encodings of them, other data, damaged bytes; each
    is given twice, so that its form is known the second time."""
    forms = CallForms()
    for call in calls:
        good = encode_call(*call)
        turned = msgpack.packb(dict(reversed(msgpack.unpackb(good).items())))
        payloads = [good, turned, good + b"\0", good[:-1]]
        for _ in range(12):
            damaged = bytearray(good)
            damaged[random.randrange(len(good))] = random.randrange(256)
            payloads.append(bytes(damaged))
        for payload in payloads * 2:
            both_ways(forms, payload)


def test_data_of_every_size_of_head() -> None:
    """Goal: the three heads of a MessagePack bin are counted right. Method: sizes around their borders, two inputs."""
    for size in (0, 1, 255, 256, 65_535, 65_536):
        forms = CallForms()
        call = Call({"a": Tensor("uint8", (size,), b"\1" * size), "b": Tensor("bool", (2,), b"\0\1")}, ("y",))
        first = forms.decode(encode_call(*call), ())
        again = forms.decode(encode_call(*call), ())
        assert isinstance(first, InlineCall)
        assert isinstance(again, InlineCall)
        assert first.form is again.form
        assert again.call() == call


def test_a_known_form_lets_no_other_bools_pass() -> None:
    """Goal: native code gets bools of 0 and 1 only. Method: a good call twice, then one with a 2, in the same form."""
    forms = CallForms()
    good, bad = (encode_call({"b": Tensor("bool", (2,), data)}) for data in (b"\0\1", b"\0\2"))
    for payload in (good, good, bad):
        both_ways(forms, payload)


def test_the_kept_forms_are_bounded() -> None:
    """Goal: a flood of different calls holds no memory. Method: more sizes and more names than are kept."""
    forms = CallForms()
    for count in range(2 * SIZES_KEPT):
        forms.decode(encode_call({"x": Tensor("uint8", (count,), bytes(count))}), ())
    for at in range(2 * FORMS_OF_A_SIZE):
        forms.decode(encode_call({chr(97 + at): Tensor("uint8", (1,), b"\0")}), ())
    assert len(forms._of_size) == SIZES_KEPT
    assert max(len(kept) for kept in forms._of_size.values()) == FORMS_OF_A_SIZE
