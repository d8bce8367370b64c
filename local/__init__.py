"""Rota in one process: the core with real executors and no sockets, for tests of agents and for notebooks.

`with local.open_lane() as lane: lane.deploy("echo", "echo.wasm"); lane.submit("echo", b"hello").result()`; the rest is
in docs/LOCAL.md. Names are loaded at first use, because the pytest plugin is part of this package and must cost nothing
in test runs without a lane.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rota.common.errors import (
        BadPayload,
        BadTarget,
        Busy,
        CodeError,
        ConfigError,
        Expired,
        LocalError,
        RotaError,
        TaskFailed,
        UnknownTask,
    )
    from rota.common.results import Result
    from rota.common.work import Done, Emit, Failed, Limits, TensorRef
    from rota.local.calls import LocalAsk, LocalCall, LocalWait
    from rota.local.generation import LocalGeneration
    from rota.local.handles import LocalBatch, LocalHandle
    from rota.local.lane import LocalLane
    from rota.local.lane import LocalLane as open_lane
    from rota.local.tables import Table
    from rota.local.turns import Pending, Turn

__all__ = [
    "BadPayload",
    "BadTarget",
    "Busy",
    "CodeError",
    "ConfigError",
    "Done",
    "Emit",
    "Expired",
    "Failed",
    "Limits",
    "LocalAsk",
    "LocalBatch",
    "LocalCall",
    "LocalError",
    "LocalGeneration",
    "LocalHandle",
    "LocalLane",
    "LocalWait",
    "Pending",
    "Result",
    "RotaError",
    "Table",
    "TaskFailed",
    "TensorRef",
    "Turn",
    "UnknownTask",
    "open_lane",
]

_HOME = {
    "LocalCall": "calls", "LocalWait": "calls", "LocalAsk": "calls",
    "LocalGeneration": "generation",
    "LocalBatch": "handles", "LocalHandle": "handles", "LocalLane": "lane", "open_lane": "lane", "Table": "tables",
    "Pending": "turns", "Turn": "turns",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        module = import_module(f"rota.local.{_HOME[name]}")
        return module.LocalLane if name == "open_lane" else getattr(module, name)
    for module in map(import_module, ("rota.common.errors", "rota.common.work", "rota.common.results")):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(name)
