"""ONNX Runtime as it would be on a host with CUDA, with the CPU computing, and errors of a device at will.

It changes the library at its border, so that all of our code runs as it is. Run as a program it is a GPU worker:

    python tests/kits/cuda_stand_in.py FILE [options of rota gpu-worker]

While FILE is there, calls raise the text after its first line, which says how many are let pass.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rota.gpu_worker  # noqa: F401 - sets variables before the library is loaded

# isort: split
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

CUDA = "CUDAExecutionProvider"
_CPU = [("CPUExecutionProvider", {})]
_Session = onnxruntime.InferenceSession


class StandIn(_Session):  # type: ignore[misc]
    """A session that says it is on CUDA. `refuses`: what the library says when it cannot build one there."""

    refuses = ""
    error_file: Path | None = None
    calls = 0

    def __init__(self, model: Any, options: Any = None, providers: Any = None, **rest: Any) -> None:
        self._shown = [name for name, _ in providers]
        if CUDA in self._shown:
            if self.refuses:
                raise native.Fail(self.refuses)
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        super().__init__(model, options, providers=_CPU, **rest)

    def get_providers(self) -> list[str]:
        return self._shown

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        super().run_with_iobinding(binding, options)
        if self.error_file is not None and self.error_file.exists() and CUDA in self._shown:
            passed, text = self.error_file.read_text(encoding="utf-8").split("\n", 1)
            StandIn.calls += 1
            if StandIn.calls > int(passed):
                raise RuntimeError(text)


def install(setattr_: Any = setattr) -> type[StandIn]:
    """Put the stand-in in the place of the library's session; `setattr_` may be that of pytest's monkeypatch."""
    setattr_(onnxruntime, "InferenceSession", StandIn)
    setattr_(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    return StandIn


if __name__ == "__main__":
    from rota.gpu_worker import __main__ as worker
    from rota.gpu_worker import hardware, providers

    install().error_file = Path(sys.argv.pop(1))
    providers._load_cuda_libraries = lambda: None
    hardware.gpu_facts = lambda: {"name": "a stand-in"}  # type: ignore[assignment]
    worker.command()
