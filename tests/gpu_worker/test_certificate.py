"""What a certificate allows for a call, and its JSON form."""

from __future__ import annotations

import json

import pytest

from rota.common.errors import CodeError
from rota.common.model_call import Call, Tensor
from rota.gpu_worker.certificate import (
    Certificate,
    DecoderCertificate,
    Evidence,
    ShapeCertificate,
    alone,
    decode,
    encode,
    of_shapes,
    unstable,
)

EVIDENCE = (Evidence("positions", 8, 4, 128, 0, 0.0),)
A = ShapeCertificate((("x", (16,)),), "A", (2, 8), "", EVIDENCE)
B = ShapeCertificate((("x", (17,)),), "B", (), "its rows depend on their position", EVIDENCE)


def call(*shape: int, **others: tuple[int, ...]) -> Call:
    shapes = {"x": shape, **others}
    return Call({name: Tensor("float32", extents, b"") for name, extents in shapes.items()}, ())


@pytest.mark.parametrize(("rows", "size"), [(0, 0), (1, 2), (2, 2), (3, 8), (8, 8), (9, 0)])
def test_a_batch_is_padded_to_the_smallest_size_that_fits(rows: int, size: int) -> None:
    """Goal: the size depends on the call alone; one row is padded too. Method: around each size of the ladder."""
    certificate = of_shapes((A,), "p")
    assert certificate.batch_size(call(rows, 16)) == size
    assert certificate.class_of(call(rows, 16)) == ("A" if size else "C")


def test_other_shapes_run_alone() -> None:
    """Goal: nothing is batched that was not certified. Method: another width, rank, input or number of rows."""
    certificate = of_shapes((A, B), "p")
    assert (certificate.model_class, certificate.reason) == ("B", B.reason)
    for other in (call(2, 18), call(2, 16, 1), call(2, 16, y=(2, 16)), call()):
        assert certificate.batch_size(other) == 0
        assert certificate.class_of(other) == "C"
    assert certificate.batch_size(call(2, 17)) == 0
    assert certificate.class_of(call(2, 17)) == "B"
    assert of_shapes((ShapeCertificate((("x", (4,)), ("y", (4,))), "A", (2,), ""),), "").batch_size(
        call(1, 4, y=(2, 4))
    ) == 0  # fmt: skip


def test_an_unstable_model_is_unstable_at_each_shape() -> None:
    """Goal: class D is refused whatever the shape. Method: classes of calls, and a probe that gives other bits."""
    certificate = unstable("it draws numbers", "p", (A,))
    assert not certificate.is_repeatable
    assert [certificate.class_of(one) for one in (call(1, 16), call(1, 18))] == ["D", "D"]
    good = alone("no batch axis", "p")
    assert good.compared("p") is good
    assert good.compared("q").model_class == "D"


def test_a_certificate_survives_its_file() -> None:
    """Goal: the JSON form holds all of it. Method: encode and decode with every part filled."""
    for one in (
        of_shapes((A, B), "p"),
        alone("r", "p"),
        Certificate("A", "", "p", (), DecoderCertificate((2, 4), True)),
    ):
        found, value = decode(encode(one, "00", {"provider": "cpu"}))
        assert found == one
        assert value["conditions"] == {"provider": "cpu"}


def test_a_damaged_certificate_is_seen() -> None:
    """Goal: no other certificate is read from a damaged file. Method: cut it, change a value, change its format."""
    text = encode(of_shapes((A,), "p"), "00", {})
    for damaged in ("", "[]", text[:-20], text.replace('"A"', '"B"'), json.dumps({**json.loads(text), "format": 99})):
        with pytest.raises(CodeError, match="no certificate"):
            decode(damaged)
