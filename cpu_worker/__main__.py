"""The CPU worker process: `python -m rota.cpu_worker`, or `rota cpu-worker`.

`serve` is the whole start, in order. The engine is imported there and not above, so that `rota --help` stays fast and a
host without the `cpu` extra gets an error message instead of a traceback.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rota.common.errors import ConfigError
from rota.cpu_worker.host_limits import WORKER_BYTES, check_guest_room, raise_limits
from rota.host.command import settings_command
from rota.host.config import CpuWorkerSettings
from rota.host.install import install_command
from rota.host.service import Exit
from rota.worker.executor import Executor, Outside
from rota.worker.loop import serve_worker


def serve(settings: CpuWorkerSettings) -> Exit:
    """Run WASM agents and functions until told to stop."""
    raise_limits()
    check_guest_room(WORKER_BYTES)  # before loading the libraries, which end the process if memory is short
    try:
        import wasmtime  # noqa: F401 - only to check that it is installed
    except ImportError as error:
        raise ConfigError(f"a CPU worker needs wasmtime ({error}): {install_command('cpu')}") from error
    from rota.cpu_worker.executor import WasmExecutor
    from rota.cpu_worker.profile import use_large_thread_stacks
    from rota.cpu_worker.tensor_access import StoreTensors
    from rota.tensors.store import TensorStore
    from rota.worker.fold_executor import FoldExecutor

    folder = settings.folder().prepare()
    use_large_thread_stacks()  # before the executor's thread starts: deep recursion of a guest needs it

    def make_executor(outside: Outside) -> Executor:
        def make_runner(_: Callable[[], None]) -> WasmExecutor:
            return WasmExecutor(
                folder.modules,
                folder.artefacts,
                StoreTensors(TensorStore(folder.tensors)),
                lambda: time.monotonic() * 1_000,
                raw_calls=settings.raw_calls,
                live_calls=settings.live_calls,
            )

        return FoldExecutor(make_runner, outside)

    return serve_worker("cpu", settings, make_executor)


command = settings_command("cpu-worker", CpuWorkerSettings, lambda: serve, "Run WASM agents and functions.")

if __name__ == "__main__":
    command()
