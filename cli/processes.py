"""The commands that run processes: `up` for all of them on this host, `broker`, `cpu-worker` and `gpu-worker` for one.

The single ones equal `python -m rota.broker` and so on. What they run is imported only when they run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from rota.host.command import settings_command
from rota.host.config import BrokerSettings, CpuWorkerSettings, GpuWorkerSettings, Option, ProcessSettings
from rota.host.service import Exit


@dataclass(frozen=True, kw_only=True)
class UpSettings(ProcessSettings):
    """The settings of `up` itself; other ROTA_ variables are passed to the processes that it starts."""

    cpu_workers: Annotated[
        int | None,
        Option("--cpu-workers", "ROTA_CPU_WORKERS", "How many CPU workers; else one per usable core.", high=1_024),
    ] = None
    gpu_workers: Annotated[
        int | None,
        Option(
            "--gpu-workers",
            "ROTA_GPU_WORKERS",
            "How many GPU workers, one per device; else one if ONNX Runtime is installed.",
            high=256,
        ),
    ] = None

    def counts(self) -> tuple[int, int]:
        """Return how many CPU and GPU workers to run."""
        cpu = usable_cores() if self.cpu_workers is None else self.cpu_workers
        has_onnxruntime = importlib.util.find_spec("onnxruntime") is not None
        return cpu, int(has_onnxruntime) if self.gpu_workers is None else self.gpu_workers


def usable_cores() -> int:
    """Return how many cores this process may use; in a container, fewer than the host has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_up(settings: UpSettings) -> Exit:
    from rota.cli.supervisor import Supervisor, plan

    return Supervisor(plan(settings, *settings.counts())).run()


def _serve_of(package: str) -> Callable[[], Callable[[Any], Exit]]:
    def load() -> Callable[[Any], Exit]:
        serve: Callable[[Any], Exit] = importlib.import_module(f"rota.{package}.__main__").serve
        return serve

    return load


up = settings_command(
    "up",
    UpSettings,
    lambda: _run_up,
    "Run a broker and its workers on this host. Ctrl-C lets workers finish; a second Ctrl-C stops at once.",
)
broker = settings_command("broker", BrokerSettings, _serve_of("broker"), "Run the broker of a run folder.")
cpu_worker = settings_command(
    "cpu-worker", CpuWorkerSettings, _serve_of("cpu_worker"), "Run WASM agents and functions."
)
gpu_worker = settings_command(
    "gpu-worker", GpuWorkerSettings, _serve_of("gpu_worker"), "Run ONNX models on one GPU, or the CPU."
)
