"""The GPU worker process: `python -m rota.gpu_worker`, or `rota gpu-worker`.

`serve` is the whole start, in order. One process uses one GPU: the others are hidden from it before ONNX Runtime is
loaded, so that no library takes memory on them.
"""

from __future__ import annotations

import os

from rota.common.errors import ConfigError
from rota.common.limits import ASSIGNMENTS_PER_GPU_WORKER
from rota.gpu_worker.provider_table import AUTOMATIC, PROVIDERS
from rota.host.command import settings_command
from rota.host.config import GpuWorkerSettings
from rota.host.install import install_command
from rota.host.service import Exit
from rota.worker.executor import Executor, Outside
from rota.worker.loop import serve_worker


def serve(settings: GpuWorkerSettings) -> Exit:
    """Run ONNX models until told to stop."""
    show_one_device(settings.device, settings.require)
    try:
        import onnxruntime  # noqa: F401 - only to check that it is installed
    except ImportError as error:
        raise ConfigError(f"a GPU worker needs ONNX Runtime ({error}): {install_command('gpu')}") from error
    from rota.conversations.store import ConversationStore
    from rota.gpu_worker.executor import ModelExecutor
    from rota.tensors.store import TensorStore

    folder = settings.folder().prepare()

    def make_executor(outside: Outside) -> Executor:
        return ModelExecutor(
            settings.models(),
            TensorStore(folder.tensors),
            outside,
            device=settings.require or "auto",
            require=settings.require != "",
            threads=settings.threads,
            memory_bytes=settings.model_memory,
            conversations=ConversationStore(folder.conversations),
        )

    return serve_worker("gpu", settings, make_executor, ASSIGNMENTS_PER_GPU_WORKER)


def show_one_device(device: int, require: str = "") -> None:
    """Make only one GPU visible to this process: the one with this number among those visible so far.

    `require`: the provider, if one is named. Raises `ConfigError` if it has no such device, or no way to choose one.
    """
    if require == "cpu":
        return
    provider = PROVIDERS[require or AUTOMATIC]
    variable = provider.devices
    if not variable:
        if device:
            raise ConfigError(
                f"--device {device} (ROTA_DEVICE): {provider.title} has no way to choose a device here, leave it out",
                setting="ROTA_DEVICE",
            )
        return
    visible = [name for name in os.environ.get(variable, "").split(",") if name]
    if visible and device >= len(visible):
        raise ConfigError(
            f"--device {device} (ROTA_DEVICE), but {variable} shows {len(visible)}: name one from 0 to "
            f"{len(visible) - 1}",
            setting="ROTA_DEVICE",
        )
    if variable not in os.environ or visible:  # an empty variable hides all on purpose
        os.environ[variable] = visible[device] if visible else str(device)


command = settings_command("gpu-worker", GpuWorkerSettings, lambda: serve, "Run ONNX models on one GPU, or the CPU.")

if __name__ == "__main__":
    command()
