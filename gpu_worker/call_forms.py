"""Forms: what many calls have in common, so that most payloads are decoded by comparing bytes. PURE.

Calls of one model usually differ only in the data of their tensors. A form keeps the other bytes of a payload and where
the data are; a payload with the same bytes in these places is the same call with other data. This gives exactly what
`decode_call` gives, which tests/gpu_worker/test_call_forms.py checks by fuzzing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from rota.common.columns import new_tuple
from rota.common.model_call import Call, decode_call, encode_call
from rota.common.work import TensorRef

SIZES_KEPT: Final = 64
FORMS_OF_A_SIZE: Final = 4
FIXED_BYTES_MAX: Final = 8 << 10  # of a form that is kept; most have less than 100


class CallForm:
    """A call without its data: the tensors of `call` are empty, `spans` says where in the payload the data of each are,
    in their order.
    """

    __slots__ = ("bools", "call", "fixed", "spans")

    def __init__(self, call: Call, spans: dict[str, tuple[int, int]], payload: bytes) -> None:
        self.call = call
        self.spans = spans
        self.bools = [spans[name] for name, tensor in call.inputs.items() if tensor.dtype == "bool"]
        edges = [0, *[edge for span in spans.values() for edge in span], len(payload)]
        parts = [(edges[at], payload[edges[at] : edges[at + 1]]) for at in range(0, len(edges), 2)]
        self.fixed = tuple([(start, part) for start, part in parts if part])

    def matches(self, payload: bytes) -> bool:
        """Return whether a payload of the right size is this call with other data."""
        for start, part in self.fixed:
            if not payload.startswith(part, start):
                return False
        # Native code reads a bool as one byte, 0 or 1: decode_call refuses others, with a reason.
        return not (self.bools and any(payload[start:end].translate(None, b"\0\1") for start, end in self.bools))


class InlineCall(NamedTuple):
    """A call whose tensors are all inline: a form, and a payload of it."""

    form: CallForm
    payload: bytes

    def call(self) -> Call:
        """Return the call with its data."""
        inputs = {
            name: self.form.call.inputs[name]._replace(data=self.payload[start:end])
            for name, (start, end) in self.form.spans.items()
        }
        return Call(inputs, self.form.call.outputs)


class CallForms:
    """Decodes calls; keeps the forms seen last."""

    def __init__(self) -> None:
        self._of_size: OrderedDict[int, list[CallForm]] = OrderedDict()

    def decode(self, payload: bytes, references: Sequence[TensorRef]) -> InlineCall | Call:
        """Return the call in a payload: a `Call` if a tensor is there by reference, else an `InlineCall`.

        Raises `BadPayload` as `decode_call` does.
        """
        for form in self._of_size.get(len(payload), ()):
            if form.matches(payload):
                known: InlineCall = new_tuple(InlineCall, (form, payload))
                return known
        call = decode_call(payload, references)
        if not all(isinstance(tensor.data, bytes) for tensor in call.inputs.values()):
            return call
        found = inline_call(call)  # a payload that is encoded in another way is encoded again
        self._keep(found.form, len(found.payload))
        return found

    def _keep(self, form: CallForm, size: int) -> None:
        if sum([len(part) for _, part in form.fixed]) <= FIXED_BYTES_MAX:
            forms = self._of_size.setdefault(size, [])
            self._of_size.move_to_end(size)
            forms.insert(0, form)
            del forms[FORMS_OF_A_SIZE:]
            if len(self._of_size) > SIZES_KEPT:
                self._of_size.popitem(last=False)


def inline_call(call: Call) -> InlineCall:
    """Return a call whose tensors are all inline with its form, which is not kept."""
    payload = encode_call(call.inputs, call.outputs)
    return InlineCall(_form_of(call, payload), payload)


def _form_of(call: Call, payload: bytes) -> CallForm:
    """Return the form of a payload that is the encoding of this call."""
    empty = {name: tensor._replace(data=b"") for name, tensor in call.inputs.items()}
    spans: dict[str, tuple[int, int]] = {}
    end = len(payload) - _bytes_behind(call)
    for name, tensor in reversed(call.inputs.items()):  # the data of an input are the last bytes of its encoding
        assert isinstance(tensor.data, bytes)
        start = end - len(tensor.data)
        spans[name] = (start, end)
        before = len(encode_call({name: empty[name]})) - len(encode_call({})) - 2  # an empty bin has two bytes
        end = start - before - _bin_head(len(tensor.data))
    return CallForm(Call(empty, call.outputs), dict(reversed(spans.items())), payload)


def _bytes_behind(call: Call) -> int:
    """Return the size of what follows the inputs: the wanted outputs, if any."""
    return len(encode_call({}, call.outputs)) - len(encode_call({}))


def _bin_head(size: int) -> int:
    """Return the size of the head of a MessagePack bin."""
    return 2 if size < 1 << 8 else 3 if size < 1 << 16 else 5
