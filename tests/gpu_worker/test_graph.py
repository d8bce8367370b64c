"""What is read from a model's graph when it is added, and what is refused, by name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rota.common.errors import CodeError
from rota.common.limits import INLINE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, TENSORS_PER_TASK_MAX
from rota.common.model_call import NAME_CHARS_MAX
from rota.common.work import Done
from rota.gpu_worker.graph import read_graph
from rota.gpu_worker.repository import Repository
from rota.tensors.arrays import decode_arrays, encode_arrays


def identity(path: Path, names: list[str], extent: int = 1) -> Path:
    """A model that returns each of its inputs, with an x before the name."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [extent]) for name in names]
    outputs = [helper.make_tensor_value_info("x" + name, TensorProto.FLOAT, [extent]) for name in names]
    nodes = [helper.make_node("Identity", [name], ["x" + name]) for name in names]
    return save(path, helper.make_graph(nodes, "g", values, outputs))


def save(path: Path, graph: Any) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def external(name: str, location: str) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def weighted(path: Path, tensor: Any, *, in_branch: bool = False) -> Path:
    """y = x + w; with `in_branch`, w is a constant inside a branch of an If."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    if not in_branch:
        return save(path, helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor]))
    inner = helper.make_tensor_value_info("v", TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Constant", [], ["v"], value=tensor)], "branch", [], [inner])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    return save(path, helper.make_graph([node], "g", [yes, x], [y]))


def test_inputs_and_outputs_have_their_types(tmp_path: Path) -> None:
    """Goal: one sees what a model takes. Method: fixed, named and free extents, a scalar, no shape, two dtypes."""
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [2, "n", None]), value("s", TensorProto.INT64, [])]
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [name * 2]) for name in "xs"],
        "g",
        inputs,
        [value("xx", TensorProto.FLOAT, None), value("ss", TensorProto.INT64, [])],
    )
    entry = Repository(tmp_path / "models").add(save(tmp_path / "m.onnx", graph), "m")
    assert entry.graph().declared == {
        "x": ("float32", (2, "n", None)), "s": ("int64", ()), "xx": ("float32", None), "ss": ("int64", ()),
    }  # fmt: skip


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "missing.bin", "sub/../../secret", ""])
def test_data_outside_the_folder_are_refused_by_name(tmp_path: Path, location: str, in_branch: bool) -> None:
    """Goal: a graph cannot name a file of the host. Method: each way out, as an initializer and deep in a branch."""
    (tmp_path / "secret").write_bytes(bytes(16))
    weighted(tmp_path / "source" / "model.onnx", external("w", location), in_branch=in_branch)
    repository = Repository(tmp_path / "models")
    with pytest.raises(CodeError, match=r"the data of its tensor 'w' are in .*no file of the model"):
        repository.add(tmp_path / "source", "m")
    assert repository.list() == ()


def test_data_in_the_folder_are_found_and_run(bench: Any, kit: Any) -> None:
    """Goal: external weights go on working. Method: one in a folder below, written with a dot before it."""
    folder = bench.folder / "sources" / "m"
    weighted(folder / "model.onnx", external("w", "./sub/w.bin"))
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    code = bench.add(lambda path: folder)
    (done,) = bench.run(code, kit.call(x=np.ones(4, np.float32))).outcomes
    assert decode_arrays(done.result, done.tensors, bench.store)["y"].tolist() == [1, 2, 3, 4]


def test_an_initializer_that_is_an_input_too_keeps_its_value(bench: Any, kit: Any) -> None:
    """Goal: models of old exporters work, and say what cannot be given. Method: call without it and with it."""

    def both(path: Path) -> Path:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xwy"]
        weights = numpy_helper.from_array(np.full(4, 2, np.float32), "w")
        nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
        return save(path, helper.make_graph(nodes, "g", ports[:2], ports[2:], [weights]))

    code = bench.add(both)
    assert bench.prepare(code)["fixed"] == ["w"]
    one = np.ones(4, np.float32)
    done, failed = bench.run(code, kit.call(x=one), kit.call(x=one, w=one)).outcomes
    assert decode_arrays(done.result, done.tensors, bench.store)["y"].tolist() == [3, 3, 3, 3]
    assert failed.kind == "bad_input"
    assert failed.message == 'model:m: input "w" is an initializer of the model: its value stays, leave it out'


def test_what_could_not_travel_is_refused_when_it_is_added(tmp_path: Path) -> None:
    """Goal: no model that no task can call. Method: one input too many, and names one character too long."""
    repository = Repository(tmp_path / "models")
    many = [f"i{number}" for number in range(TENSORS_PER_TASK_MAX + 1)]
    for words, names in (
        (f"it has {len(many)} inputs; a task carries at most {TENSORS_PER_TASK_MAX}", many),
        (f"its input '{'n' * 40}'... has a name of {NAME_CHARS_MAX + 1} characters", ["n" * (NAME_CHARS_MAX + 1)]),
        (f"its output 'x{'n' * 39}'... has a name of {NAME_CHARS_MAX + 1} characters", ["n" * NAME_CHARS_MAX]),
    ):
        with pytest.raises(CodeError) as caught:
            repository.add(identity(tmp_path / "model.onnx", names), "m")
        assert words in caught.value.message
    assert repository.list() == ()


@pytest.mark.parametrize(("tensors", "extent"), [(17, 16_384), (70, 16_384), (70, 20_000), (9, 16_384), (8, 16_384)])
def test_many_arrays_of_a_size_below_the_bound_travel_both_ways(
    bench: Any, kit: Any, tensors: int, extent: int
) -> None:
    """Goal: no gap between the bound of one array and that of a payload. Method: many of just that size, which go in
    and out by the store where together they are too large.
    """
    names = [f"i{number}" for number in range(tensors)]
    code = bench.add(lambda path: identity(path, names, extent))
    arrays = {name: np.full(extent, number, np.float32) for number, name in enumerate(names)}
    payload, references = encode_arrays(arrays, store=bench.store)
    (outcome,) = bench.run(code, kit.task(payload, references)).outcomes
    assert isinstance(outcome, Done), outcome
    back = decode_arrays(outcome.result, outcome.tensors, bench.store)
    assert all((back["x" + name] == array).all() for name, array in arrays.items())
    in_store = extent * 4 > INLINE_BYTES_MAX or tensors * extent * 4 > INLINE_TOTAL_BYTES_MAX
    assert (len(references), len(outcome.tensors)) == ((tensors, tensors) if in_store else (0, 0))


@pytest.mark.parametrize("names", [["a", "b"], []])
def test_ports_and_initializers_are_read(tmp_path: Path, names: list[str]) -> None:
    """Goal: what is read is what is there. Method: compare with the onnx package."""
    model = onnx.load(identity(tmp_path / "model.onnx", names))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    graph = read_graph(memoryview(model.SerializeToString()))
    assert graph.inputs == [one.name for one in model.graph.input]
    assert graph.outputs == [one.name for one in model.graph.output]
    assert list(graph.initializers) == ["w"]
    assert graph.external == {}


@settings(max_examples=200)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Goal: no crash on what is no model. Method: random bytes, and a model with some of its bytes changed."""
    whole = bytearray(weighted(tmp_path_factory.getbasetemp() / "any.onnx", external("w", "w.bin")).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for found in (bytes(whole), data.draw(st.binary(max_size=40))):
        with contextlib.suppress(CodeError):
            read_graph(memoryview(found))
