"""Sources in Python on a real executor, for tests of what they find in the sandbox."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
from runtime_kit import python_runtime

from rota.broker.modules import ModuleStore
from rota.common.bundle import encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.work import SOURCE, Code, Done, Fold, Limits, Outcome, TaskInput, TensorRef
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import StoreTensors
from rota.runtimes.folder import runtime_bytes
from rota.runtimes.python_language import LANGUAGE
from rota.tensors.store import TensorStore

NOW_MS = 1_700_000_000_000
SEED = bytes(32)
LIMITS = Limits()


class PythonSandbox:
    """Deploys sources and runs tasks of them, in one executor."""

    def __init__(self, folder: Path) -> None:
        (folder / "modules").mkdir()
        self._store = ModuleStore(folder / "modules")
        self.runtime = python_runtime()
        self._store.keep(self.runtime.digest, runtime_bytes(self.runtime))
        self.tensors = TensorStore(folder / "tensors")
        self._folders = folder / "modules", folder / "artefacts"
        self.executor = self.new_executor()

    def new_executor(self, **options: Any) -> WasmExecutor:
        """Return another executor over the same deploys."""
        return WasmExecutor(*self._folders, StoreTensors(self.tensors), lambda: time.monotonic() * 1000, **options)

    def deploy(
        self,
        source: str | Mapping[str, str | bytes],
        boot: Mapping[str, bytes] | None = None,
        *,
        flow: bool = False,
        **more: Any,
    ) -> Code:
        """Return a source's code, ready to run. Raises `CodeError` as a deploy does."""
        files = {"agent.py": source} if isinstance(source, str) else source
        found = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        bundle = new_bundle(
            self.runtime.digest,
            entry=next(iter(found)),
            files={**found, **(LANGUAGE.boot_files() if boot is None else boot)},
            **more,
        )
        data = encode_bundle(bundle)
        self._store.keep(digest(data), data)
        code = Code(digest(data), SOURCE, limits=LIMITS, flow=flow)
        self.executor.prepare(code, "test")
        return code

    def run(self, code: Code, payload: bytes = b"", *, turn: int = 1, tensors: tuple[TensorRef, ...] = ()) -> Outcome:
        task = TaskInput(turn, "tell", None, payload, NOW_MS, None, tensors, 64, 1 << 20)
        (outcome,) = self.executor.run(Fold(SEED, code, "agent/test", None, (task,))).outcomes
        return outcome

    def reply(self, code: Code, payload: bytes = b"", *, turn: int = 1) -> Any:
        """Return the MessagePack value that a task replied."""
        outcome = self.run(code, payload, turn=turn)
        assert isinstance(outcome, Done), outcome
        assert outcome.result is not None
        return msgpack.unpackb(outcome.result, strict_map_key=False)
