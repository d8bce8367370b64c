"""features.c against the reference in examples/magika_features.py, byte for byte. The driver is in conftest.py."""

from __future__ import annotations

import importlib.util
import random
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Make = Callable[[str], Any]  # the fixture `agent`: a name makes one
LABEL_LINE = re.compile(r'LABEL\("([^"]+)", ([01]), ([0-9.]+)\),')


def _load_reference() -> Any:
    spec = importlib.util.spec_from_file_location("magika_features_reference", EXAMPLES / "magika_features.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


REFERENCE = _load_reference()


def file_message(path: str, content: bytes) -> bytes:
    """Return what the demo's producer sends for a file."""
    packed: bytes = msgpack.packb(
        [path, len(content), content[:4096], content[-4096:] if len(content) > 4096 else None]
    )
    return packed


def scores_message(**score_by_index: float) -> bytes:
    """Return a model's answer with these scores (`_3=0.5`) and zeros elsewhere."""
    scores = [score_by_index.get(f"_{index}", 0.0) for index in range(214)]
    packed: bytes = msgpack.packb({"outputs": {"target_label": ["float32", [1, 214], struct.pack("<214f", *scores)]}})
    return packed


def label_table() -> Any:
    """Return the table of magika_labels.h as the reference wants it."""
    rows = LABEL_LINE.findall((EXAMPLES / "agents" / "magika_labels.h").read_text(encoding="utf-8"))
    names = [row[0] for row in rows]
    return REFERENCE.Labels(
        labels=names, output=names, threshold=[float(row[2]) for row in rows], is_text=[row[1] == "1" for row in rows]
    )


CONTENTS = {
    "empty": b"",
    "one byte": b"a",
    "seven bytes": b"1234567",
    "seven bytes, no text": b"\xff234567",
    "eight bytes": b"12345678",
    "white only": b" \t\n\v\f\r" * 50,
    "white only, long": b" \n" * 5000,
    "white then few": b"\n" * 4090 + b"abcdef" + b"tail" * 2000,
    "not text after white": b"\n" * 4094 + b"\xc3\x28" + b"tail" * 2000,
    "seven left after white": b"   1234567",
    "eight left after white": b"   12345678   ",
    "white in the tail": b"#!/bin/sh\necho\n" * 100 + b" \n" * 3000,
    "other white": b"\x1c\x1d\x85\xa0 text of some length \x85\xa0\x1c",
    "1024": bytes(range(256)) * 4,
    "1500": b"x" * 1500,
    "4095": b"\n" + b"y" * 4093 + b"\n",
    "4096": random.Random(1).randbytes(4096),
    "4097": b"A" + random.Random(2).randbytes(4095) + b"Z",
    "5 MB": random.Random(3).randbytes(5_000_000),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_features_are_those_of_the_reference(agent: Make, name: str) -> None:
    """Goal: features.c computes what magika_features.py does. Method: edge cases of size and white space."""
    check_features(agent, CONTENTS[name])


WHITE = st.text("\t\n\v\f\r ", max_size=1100).map(str.encode)


@settings(max_examples=150, deadline=None)
@given(
    content=st.builds(
        lambda *parts: b"".join(parts), WHITE, st.binary(max_size=30), st.text(max_size=9).map(str.encode), WHITE
    )
)
def test_features_of_any_small_content(agent: Make, content: bytes) -> None:
    """Goal and method as above, with random contents between white space."""
    check_features(agent, content)


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=6)
    | st.text(max_size=3).map(lambda t: t.encode("utf-8", "surrogatepass")[:7])
)
def test_features_know_strict_utf8(agent: Make, content: bytes) -> None:
    """Goal: is_utf8 accepts what Python accepts. Method: contents too short for the model, so it decides."""
    check_features(agent, content)


@pytest.mark.parametrize("first", range(0x80, 0x100))
def test_features_know_every_start_of_a_sequence(agent: Make, first: int) -> None:
    """Goal: all bounds of the second byte. Method: each first byte, with bounds and their neighbours."""
    for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
        for rest in (b"", b"\x80", b"\x80\xbf", b"\x80\x80\x80"):
            check_features(agent, bytes([first, second]) + rest)


def check_features(agent: Make, content: bytes) -> None:
    """Send one file to `features` and compare with the reference."""
    features = agent("features")
    step = features.send(file_message("a/file", content))
    expected = REFERENCE.features(content)
    if expected is None:
        label = REFERENCE.label_of_few(content)
        assert step.result == label.encode()
        assert [(emit.target, emit.kind) for emit in step.emits] == [(f"tally/{label}", "tell")]
        assert msgpack.unpackb(step.emits[0].payload) == [label, "a/file", len(content), 1.0]
        assert step.state is None
    else:
        assert [(emit.target, emit.kind) for emit in step.emits] == [("model:magika", "ask")]
        assert step.emits[0].payload == msgpack.packb({"inputs": {"bytes": ["int32", [1, 2048], expected]}})
        assert msgpack.unpackb(features.state or b"") == [["a/file", len(content)]]


def test_features_match_answers_with_files_in_order(agent: Make) -> None:
    """Goal: answers take files off the queue in the order of the asks. Method: 20 files, one failure between."""
    features = agent("features")
    contents = [b"content of file %03d" % number * (number + 1) for number in range(20)]
    for number, content in enumerate(contents):
        features.send(file_message(f"f{number}", content))
    for number, content in enumerate(contents):
        failed = number == 7
        answer = msgpack.packb(["timeout", "too slow"]) if failed else scores_message(_5=0.25, _85=0.75)
        kind = "failure" if failed else "reply"
        step = features.send(answer, kind=kind, sender="model:magika", reply_to=(100 + number, 1 + number, 0))
        label = "failed" if failed else label_table().output[85]
        assert [emit.target for emit in step.emits] == [f"tally/{label}"]
        assert msgpack.unpackb(step.emits[0].payload) == [label, f"f{number}", len(content), 0.0 if failed else 0.75]
        assert step.log == (["no usable answer from the model for f7"] if failed else [])
    assert features.state == b"\x90"
    assert features.send(scores_message(_5=1.0), kind="reply", reply_to=(9, 1, 0)).error == "not_asked"


@pytest.mark.parametrize(
    "answer", [b"", b"\x80", b"\xc1", msgpack.packb({"outputs": {"target_label": ["float32", [1, 2], b"12345678"]}})]
)
def test_features_report_an_answer_of_another_form(agent: Make, answer: bytes) -> None:
    """Goal: a model that is not magika shows in tally/failed. Method: answers without the 214 scores."""
    features = agent("features")
    features.send(file_message("f", b"some content"))
    step = features.send(answer, kind="reply", reply_to=(2, 1, 0))
    assert [emit.target for emit in step.emits] == ["tally/failed"]


def test_features_skip_what_else_a_model_says(agent: Make) -> None:
    """Goal: rota_skip steps over values of every type. Method: an answer with all of them before the scores."""
    extensions = [msgpack.ExtType(3, b"x" * size) for size in (1, 2, 4, 8, 16, 3, 300, 70_000)]
    plain = [None, True, -1, -200, -40_000, 300, 1 << 40, 1.5, "s" * 40, "t" * 300, b"b" * 300, [1] * 20, {"k": [{}]}]
    others = [*plain, *extensions, msgpack.Timestamp(1), dict.fromkeys(range(70_000), 1), [[]] * 70_000]
    outputs = {f"o{number}": value for number, value in enumerate(others)}
    outputs["target_label"] = ["float32", [1, 214], struct.pack("<214f", *([0.0] * 213), 0.9)]
    features = agent("features")
    features.send(file_message("f", b"some content"))
    step = features.send(msgpack.packb({"x": others, "outputs": outputs}), kind="reply", reply_to=(2, 1, 0))
    assert step.result == label_table().output[213].encode()


def test_labels_are_those_of_the_reference(agent: Make) -> None:
    """Goal: argmax, threshold and fallback for each label. Method: each at and just below its threshold; a tie."""
    labels = label_table()
    assert len(labels.output) == 214
    for index in range(214):
        for score in (labels.threshold[index], labels.threshold[index] - 1e-4):
            rounded = struct.unpack("<f", struct.pack("<f", score))[0]
            scores = [0.0] * 214
            scores[index] = rounded
            assert label_given(agent, scores) == REFERENCE.label_of_scores(labels, scores)[0], (index, score)
    tie = [0.0] * 10 + [0.5] + [0.0] * 100 + [0.5] + [0.0] * 102
    assert label_given(agent, tie) == labels.output[10]


def label_given(agent: Make, scores: list[float]) -> str:
    features = agent("features")
    features.state = msgpack.packb([["f", 9]])
    answer = msgpack.packb({"outputs": {"target_label": ["float32", [1, 214], struct.pack("<214f", *scores)]}})
    return (features.send(answer, kind="reply", reply_to=(2, 1, 0)).result or b"").decode()


@pytest.mark.parametrize(
    "message",
    [
        ["p", 5, b"1234", None],
        ["p", 5000, b"x" * 4096, None],
        ["p", 5000, b"x" * 4096, b"x"],
        ["p", 5, b"12345"],
        [None, 0, b"", b""],
    ],
)
def test_features_refuse_what_is_no_file(agent: Make, message: list[Any]) -> None:
    """Goal: a producer's slip is a typed error. Method: parts that do not fit the size, missing fields."""
    assert agent("features").send(msgpack.packb(message)).error == "bad_payload"
