"""Which provider a session gets, and what is said when it is not the wanted one.

No device is needed: a stand-in changes what ONNX Runtime answers at its border (kits/cuda_stand_in.py). Real CUDA is
for the tests that skip without it, and for scripts/gpu_check.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cuda_stand_in
import onnxruntime
import pytest

from rota.common.errors import CodeError, ConfigError, DeviceLost
from rota.gpu_worker import provider_table, providers
from rota.gpu_worker.__main__ import show_one_device
from rota.gpu_worker.settings import ModelSettings

LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; file=f ; line=1 ; expr=e; "


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, in place; its class attributes are put back after the test."""
    stand_in = cuda_stand_in.install(monkeypatch.setattr)
    monkeypatch.setattr(stand_in, "refuses", "")
    monkeypatch.setattr(providers, "gpu_facts", lambda: {"name": "a stand-in"})
    monkeypatch.setattr(providers, "_load_cuda_libraries", lambda: None)
    monkeypatch.setattr(providers, "_used", {})
    return stand_in


@pytest.fixture
def model(tmp_path: Path, kit: Any) -> Path:
    return kit.multilayer(tmp_path / "model.onnx")


def test_cuda_is_taken_strictly_with_every_option_recorded(cuda: Any, model: Path) -> None:
    """Goal: on CUDA a session says so, and its fingerprint holds the options that decide bits."""
    assert providers.choose("auto", require=False) == ("cuda", "", "auto")
    opened = providers.open_session(model, ModelSettings(), threads=1, require="auto")
    assert (opened.provider, opened.reason) == ("cuda", "")
    settings = dict(opened.settings)
    assert settings["session.disable_cpu_ep_fallback"] == "1"
    assert {name: settings[f"provider.{name}"] for name in ("use_tf32", "cudnn_conv_algo_search")} == {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "DEFAULT",
    }


def test_a_model_that_cuda_refuses_runs_on_the_cpu_with_the_reason(cuda: Any, model: Path) -> None:
    """Goal: a fall back is never silent, and never happens where CUDA is required."""
    cuda.refuses = "the device is too old"
    opened = providers.open_session(model, ModelSettings(), threads=1, require="auto")
    assert (opened.provider, opened.reason) == ("cpu", "the device is too old")
    with pytest.raises(CodeError, match="cannot run on CUDA, which this worker requires: the device is too old"):
        providers.open_session(model, ModelSettings(), threads=1, require="cuda")
    with pytest.raises(ConfigError, match="CUDA is required and cannot be had: the device is too old"):
        providers.choose("cuda", require=True)
    assert providers.choose("auto", require=False) == ("cpu", "the device is too old", "auto")


def test_a_device_that_worked_and_is_lost_is_no_reason_to_fall_back(cuda: Any, model: Path) -> None:
    """Goal: the second model of a worker whose device is lost is not served by the CPU, and a device that never worked
    is. Method: the same refusal before and after a session.
    """
    cuda.refuses = LOST
    assert providers.open_session(model, ModelSettings(), threads=1, require="auto").provider == "cpu"
    cuda.refuses = ""
    assert providers.open_session(model, ModelSettings(), threads=1, require="auto").provider == "cuda"
    cuda.refuses = LOST
    with pytest.raises(DeviceLost, match="illegal memory access"):
        providers.open_session(model, ModelSettings(), threads=1, require="auto")


def test_a_full_device_is_no_reason_to_fall_back(cuda: Any, model: Path) -> None:
    """Goal: where a model runs does not depend on the memory that other models hold. Method: a device that worked and
    is full; the same refusal from one that never worked is a reason.
    """
    full = f"CUDA failure 2: out of memory{LOST[LOST.index(' ; GPU') :]}"
    cuda.refuses = full
    opened = providers.open_session(model, ModelSettings(), threads=1, require="auto")
    assert (opened.provider, opened.reason) == ("cpu", "CUDA failure 2: out of memory")
    cuda.refuses = ""
    providers.open_session(model, ModelSettings(), threads=1, require="auto")
    cuda.refuses = full
    with pytest.raises(MemoryError, match="CUDA refuses it: CUDA failure 2: out of memory"):
        providers.open_session(model, ModelSettings(), threads=1, require="auto")


def test_single_nodes_on_the_cpu_must_be_allowed(cuda: Any, model: Path) -> None:
    """Goal: the placement that the user did not allow is named with its remedy."""
    cuda.refuses = "This session contains graph nodes that are assigned to the default CPU EP, but fallback is disabled"
    opened = providers.open_session(model, ModelSettings(), threads=1, require="auto")
    assert "allow_cpu_nodes = true in model.toml" in opened.reason
    cuda.refuses = ""
    opened = providers.open_session(model, ModelSettings(allow_cpu_nodes=True), threads=1, require="auto")
    assert "session.disable_cpu_ep_fallback" not in dict(opened.settings)


@pytest.mark.parametrize("name", provider_table.PROVIDERS)
def test_a_provider_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Goal: every provider that a user can require says what it lacks. Method: a library that has the CPU only."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "gpu_facts", lambda: {"name": "a stand-in"})
    row = provider_table.PROVIDERS[name]
    with pytest.raises(ConfigError, match=f"{row.title} is required and cannot be had: the installed .* has no") as got:
        providers.choose(name, require=True)
    assert row.package in got.value.message


def test_the_package_falls_back_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: a provider that cannot be loaded is refused by us, not replaced by the package, which prints that it did.
    Method: TensorRT, if the installed library was built with it, without its libraries.
    """
    if "tensorrt" not in providers.offered():
        pytest.skip("the installed ONNX Runtime was built without TensorRT")
    reason = providers.why_not("tensorrt")
    assert reason
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_strict_sessions_list_what_may_take_nodes() -> None:
    """Goal: TensorRT may leave nodes to CUDA, no provider to the CPU unless allowed."""
    for name, row in provider_table.PROVIDERS.items():
        strict = [one for one, _ in providers._provider_list(row, strict=True)]
        loose = [one for one, _ in providers._provider_list(row, strict=False)]
        assert provider_table.CPU not in strict
        assert loose == [*strict, provider_table.CPU]
        assert ("CUDAExecutionProvider" in strict) == (name in ("cuda", "tensorrt"))


def test_unknown_and_unnamed_devices_are_refused() -> None:
    """Goal: the names that can be required are listed."""
    with pytest.raises(ConfigError, match="no device 'gpu': use auto, cuda, tensorrt"):
        providers.choose("gpu", require=False)
    with pytest.raises(ConfigError, match="must be named: cuda, tensorrt"):
        providers.choose("auto", require=True)


@pytest.mark.parametrize(
    ("require", "variable"), [("", "CUDA"), ("cuda", "CUDA"), ("tensorrt", "CUDA"), ("migraphx", "HIP")]
)
def test_one_device_is_shown(monkeypatch: pytest.MonkeyPatch, require: str, variable: str) -> None:
    """Goal: a worker sees the one device that it was given, among those that the user lets it see."""
    name = f"{variable}_VISIBLE_DEVICES"
    monkeypatch.setenv(name, "")  # so that it is restored, whatever sets it
    for visible, device, shown in ((None, 2, "2"), ("5,7", 1, "7"), ("", 3, "")):
        if visible is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, visible)
        show_one_device(device, require)
        assert os.environ[name] == shown
    monkeypatch.setenv(name, "5,7")
    with pytest.raises(ConfigError, match=rf"--device 2 .*, but {name} shows 2: name one from 0 to 1"):
        show_one_device(2, require)


def test_a_device_that_cannot_be_chosen_is_not_ignored() -> None:
    """Goal: --device never means another device than it says."""
    for require in ("directml", "coreml"):
        show_one_device(0, require)
        with pytest.raises(ConfigError, match="has no way to choose a device here"):
            show_one_device(1, require)


NO_MODELS = {
    "garbage": (lambda good: b"garbage", ["Protobuf parsing failed"]),
    "empty": (lambda good: b"", ["No graph was found"]),
    "cut": (lambda good: good[: len(good) // 2], ["Protobuf parsing failed"]),
    "opset": (lambda good: good.replace(b"\x42\x04\x0a\x00\x10\x11", b"\x42\x04\x0a\x00\x10\x63"), ["opset 99", "26"]),
    "IR": (lambda good: b"\x08\x63" + good[2:], ["IR version 99", "model.ir_version = "]),
    "operator": (lambda good: good.replace(b"Relu", b"Bleu"), ["no operator Bleu"]),
}


@pytest.mark.parametrize("spoiled", NO_MODELS)
def test_files_that_cannot_be_loaded_say_why(tmp_path: Path, model: Path, spoiled: str) -> None:
    """Goal: what a user meets names the model, what is wrong and, where there is one, the remedy; no file of the
    library's build. Method: damaged and too new files.
    """
    spoil, said = NO_MODELS[spoiled]
    path = tmp_path / "spoiled.onnx"
    path.write_bytes(spoil(model.read_bytes()))
    with pytest.raises(CodeError) as caught:
        providers.open_session(path, ModelSettings(), threads=1, require="cpu")
    for words in (str(path), "cannot be loaded", *said):
        assert words in caught.value.message
    assert "onnxruntime_src" not in caught.value.message
