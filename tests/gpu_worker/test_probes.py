"""The classes that the probes find, against brute force and against models made to have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _brute_force import brute_force, disagreements, normal_rows
from _operator_graphs import FAMILIES, FLOAT, HALF, OperatorGraph, node, normal
from onnx import TensorProto, helper, numpy_helper

from rota.gpu_worker.certificate import Certificate
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.probe import probed
from rota.gpu_worker.probe_rows import OUTLIERS, make_rows
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import ModelLoader

SIZES = (1, 2, 3, 4, 5, 8, 16)
DTYPES = {FLOAT: np.float32, HALF: np.float16}


def load(folder: Path, source: Path, *, threads: int = 1) -> LoadedModel:
    repository = Repository(folder / "models")
    entry = repository.add(source, "m")
    return ModelLoader(threads=threads, require="cpu", tensors=None).session(entry, entry.settings())


def load_graph(folder: Path, graph: OperatorGraph, settings: str = "", *, threads: int = 1) -> LoadedModel:
    graph.save(folder / "source" / "model.onnx")
    (folder / "source" / "model.toml").write_text(settings, encoding="utf-8")
    return load(folder, folder / "source", threads=threads)


def certificate(model: LoadedModel) -> Certificate:
    return probed(model, lambda _: None)


# The families whose classes differ by operator: one of each kind that behaves in its own way.
SELECTED = {
    "mlp-256-256-10": "A", "attention": "A", "log": "A", "reduce-sum-middle": "A", "reduce-mean-trailing": "B",
    "matmul-4-bits-level-0": "A", "static-int8": "A", "dynamic-int8": "C", "matmul-fp16": "A", "conv-2d": "A",
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("family", SELECTED)
def test_classes_agree_with_brute_force(family: str, threads: int, tmp_path: Path) -> None:
    """Goal: what the probes claim holds for other rows, neighbours and positions. Method: brute force over both."""
    graph = FAMILIES[family]()
    model = load_graph(tmp_path, graph, threads=threads)
    (shape,) = certificate(model).shapes
    make_row = normal_rows(graph.inputs, dict.fromkeys(graph.inputs, DTYPES[graph.kind]))
    truth = brute_force(model.opened.session, make_row, SIZES, rows=3, positions_max=5)
    assert not disagreements(shape, truth)


def test_brute_force_contradicts_a_wrong_certificate(tmp_path: Path) -> None:
    """Goal: the comparison can fail. Method: the true findings of two models against the other classes."""
    for family, wrong in (("dynamic-int8", "ABD"), ("conv-1d", "BCD"), ("reduce-sum-trailing", "ACD")):
        graph = FAMILIES[family]()
        model = load_graph(tmp_path / family, graph)
        (shape,) = certificate(model).shapes
        truth = brute_force(model.opened.session, normal_rows(graph.inputs, {"x": np.float32}), (1, 2, 4), rows=6)
        assert not disagreements(shape, truth)
        for other in wrong:
            assert disagreements(shape._replace(model_class=other, sizes=(2, 4)), truth), (family, other)


def test_the_evidence_counts_what_was_compared(tmp_path: Path) -> None:
    """Goal: a person can judge a certificate. Method: the probes of class A, with their sizes and rows."""
    (shape,) = certificate(load_graph(tmp_path, FAMILIES["mlp-256-256-10"]())).shapes
    probes = {(one.probe, one.size): one for one in shape.evidence}
    assert shape.sizes == (1, 2, 4, 8, 16, 32, 64)
    for size in (2, 4, 8, 16, 32, 64):
        assert probes["positions", size].rows >= max(32, 4 * size)
        assert probes["neighbours", size].rows >= size
        assert probes["rerun", size].rows == size
        assert probes["as batch size 1", size].rows == 16
    assert all(not one.differing and one.runs + one.rows for one in shape.evidence if one.probe != "alignment")
    assert ("alignment", 1) in probes


def test_a_model_that_draws_is_unstable_without_probes(tmp_path: Path) -> None:
    """Goal: a seed in the graph does not pass for repeatable. Method: RandomUniformLike with a seed."""
    found = certificate(load_graph(tmp_path, FAMILIES["random-uniform"]()))
    assert found.model_class == "D"
    assert "RandomUniformLike" in found.reason
    assert not found.shapes


def test_rows_that_meet_in_the_batch_are_coupled(tmp_path: Path) -> None:
    """Goal: no mix of rows passes, however faint. Method: add the mean, the maximum, or the last row times 1e-6."""
    for at, operator in enumerate(("ReduceMean", "ReduceMax", "last")):
        weights = {"axes": np.array([0]), "tiny": np.array(1e-6, np.float32), "at": np.array(-1)}
        meet = node("Gather", "x at", "m", axis=0) if operator == "last" else node(operator, "x axes", "m", keepdims=1)
        nodes = [meet, node("Mul", "m tiny", "t"), node("Add", "x t")]
        found = certificate(load_graph(tmp_path / str(at), OperatorGraph(nodes, [8], weights)))
        assert (found.model_class, "neighbours" in found.reason) == ("C", True), found.reason


def _flat(shape: list[int]) -> OperatorGraph:
    return OperatorGraph([node("Reshape", "x shape")], [4], {"shape": np.array(shape)})


def _joined_rows() -> OperatorGraph:
    """y [1, everything], which ONNX Runtime cannot know before the run."""
    nodes = [
        node("Equal", "x x", "same"), node("Cast", "same", "ones", to=TensorProto.INT64),
        node("ReduceSum", "ones", "s", keepdims=0), node("Reshape", "s one", "e"), node("Div", "e e", "first"),
        node("Concat", "first e", "t", axis=0), node("Reshape", "x t"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [4], {"one": np.array([1])})


def _positive_places() -> OperatorGraph:
    """For one row, the places of its positive numbers: as many as there are."""
    nodes = [
        node("Relu", "x", "r"), node("NonZero", "r", "z"), node("Gather", "z at", "p", axis=0),
        node("Shape", "x", "s", end=1), node("Concat", "s rest", "t", axis=0), node("Reshape", "p t"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [9], {"at": np.array(1), "rest": np.array([-1])}, out=TensorProto.INT64)


def _one_row() -> OperatorGraph:
    nodes = [node("Reshape", "x shape", "a"), node("Add", "x a")]
    return OperatorGraph(nodes, [4], {"shape": np.array([1, 4])})


@pytest.mark.parametrize(
    ("graph", "settings", "reason"),
    [
        (FAMILIES["conv-2d"](), "rows_max = 1", "rows_max = 1"),
        (_joined_rows(), "", "has the shape [1, 8] for 2 rows"),
        (_flat([-1]), "", "has the shape [4] for 1 rows"),
        (OperatorGraph([node("Identity", "x")], ["k"]), "", "no [[shapes]]"),
        (_positive_places(), "", 'the shape of output "y" depends on the values'),
        (_one_row(), "", "does not run 2 rows"),
    ],
)  # fmt: skip
def test_models_without_a_batch_axis_run_alone(
    graph: OperatorGraph, settings: str, reason: str, tmp_path: Path
) -> None:
    """Goal: class C with the reason, and no batch. Method: models whose rows cannot be told apart."""
    found = certificate(load_graph(tmp_path, graph, settings))
    assert found.model_class == "C"
    assert reason in found.reason
    assert all(shape.sizes == () for shape in found.shapes)


def _value(name: str, kind: int, extents: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, extents)


def _saved(folder: Path, inputs: list[Any], outputs: list[Any], nodes: list[Any], tensors: dict[str, Any]) -> Path:
    values = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize(
    ("first", "second", "out", "reason"),
    [
        ([], ["n", 4], ["n", 4], 'input "a" of any shape has no free first extent'),
        ([1, 4], ["n", 4], ["n", 4], 'input "a" [1, 4] has no free first extent'),
        (["m", 4], ["n", 4], ["n", 4], "the first extents of its inputs differ: m, n"),
        (["n", 4], ["n", 4], [1, 4], 'output "y" [1, 4] has no free first extent'),
        (["n", 4], ["n", 4], ["n", 4], ""),
        ([None, 4], [None, 4], [None, 4], ""),
    ],
)
def test_a_batch_axis_is_the_first_extent_of_all(
    first: list[Any], second: list[Any], out: list[Any], reason: str, tmp_path: Path
) -> None:
    """Goal: rows are only where the graph says so. Method: two inputs and an output with different first extents."""
    inputs = [_value("a", FLOAT, first), _value("b", FLOAT, second)]
    source = _saved(tmp_path / "s", inputs, [_value("y", FLOAT, out)], [helper.make_node("Add", ["a", "b"], ["y"])], {})
    found = certificate(load(tmp_path, source))
    assert (found.model_class, found.reason) == ("C" if reason else "A", reason)


def test_each_shape_set_has_its_class(tmp_path: Path) -> None:
    """Goal: a class holds for its extents only. Method: sums over rows of 4 and of 9 numbers; the odd one moves."""
    graph = OperatorGraph([node("ReduceSum", "x axes", keepdims=0)], ["k"], {"axes": np.array([-1])})
    found = certificate(load_graph(tmp_path, graph, "[[shapes]]\nx = [1, 16]\n[[shapes]]\nx = [1, 63]\n"))
    assert [(shape.extents, shape.model_class) for shape in found.shapes] == [
        ((("x", (16,)),), "A"), ((("x", (63,)),), "B"),
    ]  # fmt: skip
    assert (found.model_class, found.reason) == ("B", found.shapes[1].reason)


def test_rows_max_bounds_the_ladder(tmp_path: Path) -> None:
    """Goal: model.toml decides how far the probes go. Method: rows_max between two sizes."""
    (shape,) = certificate(load_graph(tmp_path, FAMILIES["conv-1d"](), "rows_max = 10")).shapes
    assert shape.sizes == (1, 2, 4, 8)


def test_large_rows_are_probed_in_smaller_batches(tmp_path: Path) -> None:
    """Goal: the probes of a large model end soon, unless model.toml asks for more. Method: rows of 40 kB, then of
    16 MB, of which no batches are made up.
    """
    for number, (extent, settings, last) in enumerate(((10_240, "", 16), (10_240, "rows_max = 64", 64))):
        graph = OperatorGraph([node("Relu", "x")], [extent])
        (shape,) = certificate(load_graph(tmp_path / str(number), graph, settings)).shapes
        assert shape.sizes[-1] == last
    found = certificate(load_graph(tmp_path / "huge", OperatorGraph([node("Relu", "x")], [4 << 20])))
    assert (found.model_class, found.reason) == ("C", "its rows are too large to probe batches of them")


def test_indexes_are_made_up_within_their_table(tmp_path: Path) -> None:
    """Goal: a model with a small table can be probed, one with a large table is probed widely. Method: both, and one
    whose values only model.toml knows.
    """
    for size, settings, expected in ((4, "", "A"), (256, "", "A"), (3, "", "D"), (3, "[ranges]\nx = [0, 2]", "A")):
        inputs, outputs = [_value("x", TensorProto.INT64, ["n", 5])], [_value("y", FLOAT, ["n", 5, 8])]
        nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
        folder = _saved(tmp_path / f"{size}{len(settings)}", inputs, outputs, nodes, {"table": normal(1, size, 8)})
        (folder / "model.toml").write_text(settings, encoding="utf-8")
        found = certificate(load(folder, folder))
        assert found.model_class == expected, (size, settings, found.reason)
        assert ("idx=3" in found.reason) == (expected == "D")


def test_masks_positions_and_ranges_are_plausible() -> None:
    """Goal: text models see what a tokenizer gives. Method: the made-up values of each kind of input."""
    masks = make_rows("attention_mask", "int64", (7,), 5, None, wide=True)
    assert masks.shape == (5 + OUTLIERS, 7)
    assert (np.diff(masks, axis=1) <= 0).all()
    assert (masks[:, 0] == 1).all()
    assert masks[0].all()
    assert (make_rows("position_ids", "int64", (7,), 2, None, wide=True) == np.arange(7)).all()
    assert set(np.unique(make_rows("token_type_ids", "int64", (50,), 2, None, wide=True))) == {0, 1}
    assert make_rows("input_ids", "int64", (400,), 4, None, wide=True)[:4].max() > 200
    assert make_rows("input_ids", "int64", (400,), 4, None, wide=False).max() == 3
    given = make_rows("x", "int32", (400,), 4, (5.0, 7.0), wide=True)
    assert (given.min(), given.max()) == (5, 7)
    floats = make_rows("x", "float32", (400,), 4, None, wide=True)
    assert np.abs(floats[0]).max() < 1 < np.abs(floats[1]).max() < 4 < np.abs(floats[4:]).max()
    assert (floats[4] == 0).all()
