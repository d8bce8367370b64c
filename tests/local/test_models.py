"""Models in a local lane: the real ONNX executor on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rota import local
from rota.common.limits import INLINE_BYTES_MAX
from rota.common.model_call import Tensor, decode_result, encode_call
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Factory = Callable[..., local.LocalLane]


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """An ONNX file: y = x + x, for matrices."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", kind, ["n", "m"])],
        [helper.make_tensor_value_info("y", kind, ["n", "m"])],
    )
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_is_called_directly_and_by_an_agent(
    rota_lane_factory: Factory, agents: Path, double: Path, tmp_path: Path
) -> None:
    """Goal: the whole way of a model task. Method: a small and a large array, a wrong rank, an agent that asks; then
    the saved run has the model with it.
    """
    lane = rota_lane_factory()
    info = lane.deploy("double", double, "model")
    small = np.arange(6, dtype=np.float32).reshape(2, 3)
    large = np.arange(INLINE_BYTES_MAX, dtype=np.float32).reshape(1, -1)
    inline, referenced = lane.submit_many("model:double", [{"x": small}, {"x": large}]).results()
    np.testing.assert_array_equal(inline.arrays["y"], small * 2)
    np.testing.assert_array_equal(referenced.arrays["y"], large * 2)
    assert len(referenced.tensors) == 1
    assert inline.provenance is not None
    assert inline.provenance.provider == "cpu"
    assert lane.submit("model:double", {"x": small[0]}).outcome().kind == "bad_input"

    lane.deploy("asker", agents / "asker.wasm")
    lane.submit("asker/a", b"model:double " + encode_call({"x": Tensor("float32", small.shape, small.tobytes())}))
    reply = lane.run()[-1]
    assert (reply.kind, reply.target) == ("reply", "asker/a")
    assert decode_result(reply.payload, ())["y"].data == (small * 2).tobytes()
    assert [turn.state for turn in lane.turns][:3] == [None] * 3

    lane.save(tmp_path / "run", models=True)
    assert Repository(RunFolder(tmp_path / "run").models).find(info["digest"]).name == "double"


def test_a_model_folder_is_used(rota_lane_factory: Factory, double: Path, tmp_path: Path) -> None:
    """Goal: models that are there need no file. Method: by name, and by digest under another name."""
    entry = Repository(tmp_path / "models").add(double, "double")
    lane = rota_lane_factory(models=tmp_path / "models")
    assert lane.deploy("model:double")["digest"] == entry.digest
    assert lane.deploy("again", entry.digest, "model")["digest"] == entry.digest
    ones = np.ones((1, 1), np.float32)
    for target in ("model:double", "model:again"):
        assert lane.submit(target, {"x": ones}).result().arrays["y"][0, 0] == 2.0
    with pytest.raises(local.BadPayload, match="a model takes a map"):
        lane.submit("model:double", ones)
