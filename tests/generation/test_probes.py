"""The probes of a decoder: what each kind of model is found to be."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from decoder_kit import TinyDecoder
from onnx import TensorProto, helper

from rota.generation.probes import probe_decoder
from rota.model_builds.random_decoder import build_random_decoder


def changed(folder: Path, *added: onnx.NodeProto) -> TinyDecoder:
    """Return a decoder whose logits are those of the tiny one plus `change`, which the added nodes make."""
    build_random_decoder(folder)
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
    small = helper.make_tensor("small", TensorProto.FLOAT, [1], [1e-3])
    axes = helper.make_tensor("first_axis", TensorProto.INT64, [1], [0])
    one = helper.make_tensor("place", TensorProto.INT64, [1], [1])
    model.graph.initializer.extend([small, axes, one])
    model.graph.node.extend(
        [
            *added,
            helper.make_node("Mul", ["change", "small"], ["scaled"]),
            helper.make_node("Add", ["inner", "scaled"], ["logits"]),
        ]
    )
    onnx.save(model, path)
    return TinyDecoder(folder)


def found(decoder: TinyDecoder, slots: int = 4):
    return probe_decoder(decoder.slots, slots, on_host=True, say=lambda text: None)


def test_a_common_decoder_is_invariant(decoder: TinyDecoder, folder: Path) -> None:
    """Goal: class A with all sizes that hold. Method: float32, and 4-bit blocks, whose single row is another kernel."""
    finding = found(decoder)
    is_quantised = "MatMulNBits" in (folder / "model.onnx").read_bytes().decode(errors="replace")
    assert finding.sizes == ((2, 4) if is_quantised else (1, 2, 4))
    assert (finding.prefix_cache, finding.is_repeatable, finding.reason) == (True, True, "")
    assert sum(count.rows for count in finding.counts) > 100


def test_a_model_whose_rows_see_each_other_gets_one_slot(tmp_path: Path) -> None:
    """Goal: class C. Method: the mean over all rows, added to the logits."""
    finding = found(changed(tmp_path, helper.make_node("ReduceMean", ["inner", "first_axis"], ["change"], keepdims=1)))
    assert finding.sizes == (1,)
    assert finding.is_repeatable
    assert "slot" in finding.reason
    assert any(count.differing and count.max_difference > 0 for count in finding.counts)


def test_a_model_that_sees_the_length_of_its_call_gets_no_cache(tmp_path: Path) -> None:
    """Goal: cells of earlier prompts only where they are the same. Method: the number of tokens, added."""
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "place"], ["length"]),
        helper.make_node("Cast", ["length"], ["change"], to=TensorProto.FLOAT),
    ]
    finding = found(changed(tmp_path, *nodes))
    assert (finding.sizes, finding.prefix_cache, finding.reason) == ((1, 2, 4), False, "")


def test_a_model_that_draws_numbers_is_not_repeatable(tmp_path: Path) -> None:
    """Goal: class D. Method: noise, added."""
    finding = found(changed(tmp_path, helper.make_node("RandomNormalLike", ["inner"], ["change"])))
    assert not finding.is_repeatable
    assert "runs again" in finding.reason


def test_a_model_that_reads_unused_cells_gets_one_slot(tmp_path: Path) -> None:
    """Goal: rubbish in other cells is tried. Method: the sum of a layer's keys, added."""
    nodes = [
        helper.make_node("ReduceMean", ["past_key_values.0.key"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "first_axis"], ["change"]),
    ]
    assert found(changed(tmp_path, *nodes)).sizes == (1,)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_any_number_of_slots(plain: TinyDecoder, slots: int) -> None:
    """Goal: all slots are tried. Method: one, an odd number, the most."""
    finding = found(plain, slots)
    assert finding.sizes[-1] == slots
    assert finding.is_repeatable
