"""Values to payloads, and payloads to messages within their bounds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy
import pytest

from rota.common import limits
from rota.common.columns import Addresses
from rota.common.errors import BadPayload, BadTarget, TensorError
from rota.common.messages import ResultItem, Submit
from rota.common.model_call import decode_call
from rota.common.results import Result, result_of
from rota.common.text_calls import decode_text_call, encode_text_call
from rota.common.wire import decode, encode
from rota.tensors.payloads import RUN_BYTES_MAX, Payloads, check_message, check_targets, run_of


def test_bytes_stay_and_values_are_packed(tmp_path: Path) -> None:
    """Goal: what goes in comes out. Method: bytes as they are, a value there and back, a large array by reference."""
    payloads = Payloads(tmp_path)
    assert payloads.pack("echo", b"raw") == (b"raw", ())
    assert payloads.pack("echo", memoryview(b"raw")) == (b"raw", ())
    assert payloads.pack("echo", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n") == (b"gr\xc3\xbcn", ())
    with pytest.raises(BadPayload, match="half a surrogate pair at 1"):
        payloads.pack("echo", "a\ud800")
    value = {"n": [1, 2.5, None], "small": numpy.arange(3), "large": numpy.arange(100_000)}
    packed, tensors = payloads.pack("echo", value)
    assert len(tensors) == 1
    assert len(packed) < 1_000
    back = payloads.value(packed, tensors)
    assert back["n"] == [1, 2.5, None]
    assert numpy.array_equal(back["large"], value["large"])


def test_tensors_of_a_result_are_arrays(tmp_path: Path) -> None:
    """Goal: a producer reads the tensors that a result names. Method: one in the store, one not; no store."""
    payloads = Payloads(tmp_path)
    value = numpy.arange(100_000)
    _, tensors = payloads.pack("echo", value)
    item = ResultItem(1, "main", 1, 1, True, b"sum", tensors, "", "", (), None)
    (array,) = result_of(item, payloads).tensor_arrays
    assert numpy.array_equal(array, value)
    assert not array.flags.writeable
    with pytest.raises(TensorError, match="not in the store"):
        payloads.tensor_arrays((tensors[0]._replace(digest=bytes(32)),))
    assert Payloads(None).tensor_arrays(()) == ()
    with pytest.raises(TensorError, match="name its folder"):
        Payloads(None).tensor_arrays(tensors)


def test_a_result_is_read_as_text_or_value() -> None:
    """Goal: each way to read a result names the other where it cannot. Method: text, MessagePack, bytes, nothing."""

    def result(data: bytes | None) -> Result:
        return result_of(ResultItem(7, "main", 1, 1, True, data, (), "", "", (), None), Payloads(None))

    assert result(b"gr\xc3\xbcn").text == "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"
    assert result(None).text is None
    assert result(b"\xcd\x03\x84").value == 900
    with pytest.raises(BadPayload, match=r"task 7 is no text in UTF-8 .*\.value"):
        _ = result(b"\xcd\x03\x84").text
    with pytest.raises(BadPayload, match=r"\.text of the result, else its bytes, \.payload"):
        _ = result(b"hello").value


def test_nothing_touches_the_disk_before_it_must(tmp_path: Path) -> None:
    """Goal: a producer of small tasks needs no store. Method: no folder appears."""
    Payloads(tmp_path / "tensors").pack("echo", b"raw")
    assert not (tmp_path / "tensors").exists()


def test_models_take_text_tasks_as_maps() -> None:
    """Goal: many texts at once, checked before. Method: each task; wrong ones; an input of such a name."""
    payloads = Payloads(None)
    texts = {"texts": ["a"]}
    for value in ({"generate": {"prompt": "a"}}, {"embed": texts}, {"classify": {**texts, "top": 2}}):
        packed, tensors = payloads.pack("model:text", value)
        assert tensors == ()
        assert encode_text_call(decode_text_call(packed)) == packed
    for wrong, words in (
        ({"generate": {"prompt": "a", "top_p": 7}}, '"generate.top_p" must be'),
        ({"generate": "a"}, 'or a text task, {"generate": '),
        ({"say": {"prompt": "a"}}, "a model takes a map of input name to numpy array"),
    ):
        with pytest.raises(BadPayload, match=re.escape(words)):
            payloads.pack("model:text", wrong)
    array = numpy.zeros(1, numpy.float32)
    assert list(decode_call(payloads.pack("model:x", {"embed": array})[0], ()).inputs) == ["embed"]


def test_models_take_arrays_by_name(tmp_path: Path) -> None:
    """Goal: `submit("model:x", {"input": array})` is a model task. Method: read the payload as a worker does."""
    payloads = Payloads(tmp_path)
    packed, tensors = payloads.pack("model:digits", {"x": numpy.zeros((2, 3), numpy.float32)})
    call = decode_call(packed, tensors)
    assert call.inputs["x"].shape == (2, 3)
    with pytest.raises(BadPayload, match="input name"):
        payloads.pack("model:digits", {"x": [1, 2]})


def test_many_payloads_become_few_messages() -> None:
    """Goal: bulk without a message that is too large. Method: more bytes, and more tasks, than one may hold."""
    payloads = Payloads(None)
    large = [bytes(limits.PAYLOAD_BYTES_MAX)] * (RUN_BYTES_MAX // limits.PAYLOAD_BYTES_MAX + 2)
    messages = list(payloads.messages("echo", large, 0))
    assert [len(runs[0].payloads) for runs in messages] == [31, 3]
    many = [b""] * (limits.RUN_TASKS_MAX + 1)
    counts = [len(runs[0].payloads) for runs in payloads.messages("echo", many, 0)]
    assert counts == [limits.RUN_TASKS_MAX, 1]
    assert list(payloads.messages("echo", [], 0)) == []


def test_messages_that_are_made_can_be_read() -> None:
    """Goal: what the client builds passes the broker's checks. Method: encode and decode mixed targets and tensors."""
    (runs,) = Payloads(None).messages(["a/1", "model:b", "c"], [b"1", b"2", {"x": 1}], -8)
    submit = Submit(1, "main", runs, True, None, None)
    assert decode(encode(submit)) == submit
    assert tuple(runs[0].targets) == ("a/1", "model:b", "c")


def test_wrong_calls_are_refused() -> None:
    """Goal: mistakes are found before anything is sent. Method: one of each."""
    payloads = Payloads(None)
    with pytest.raises(BadPayload, match="2 targets for 1 payloads"):
        list(payloads.messages(["a", "b"], [b""], 0))
    with pytest.raises(BadPayload, match="the limit is"):
        list(payloads.messages("a", [bytes(limits.PAYLOAD_BYTES_MAX + 1)], 0))
    with pytest.raises(BadTarget):
        check_targets(["fine", "not fine"])
    with pytest.raises(BadPayload, match="atomic"):
        check_message([])
    with pytest.raises(BadPayload, match="atomic"):
        check_message([run_of("a", [(bytes(limits.PAYLOAD_BYTES_MAX), ())] * 33, 0)])


def test_targets_of_a_run_that_was_made_before_are_targets() -> None:
    """Goal: a run that came from somewhere can be submitted as it is. Method: a column of addresses; other values."""
    check_targets(Addresses.of(["a/1", "b", "a/1"]))
    for wrong in (b"a/1", 7, {"a/1"}):
        with pytest.raises(BadTarget, match="one target, or a list"):
            check_targets(wrong)  # type: ignore[arg-type]
