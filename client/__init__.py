"""Clients for producers: `Client` (blocking) and `AsyncClient` (asyncio). docs/CLIENT.md shows how to use them.

Only names that producers need are exported. Those of the asyncio client are loaded on first use, since importing
asyncio takes longer than everything else together.
"""

from typing import TYPE_CHECKING, Any

from rota.client.client import Batch, Client, Handle
from rota.client.operations import TaskRow
from rota.client.watch import Missed
from rota.common.errors import (
    Busy,
    Draining,
    Expired,
    NotReachable,
    NumberReused,
    RotaError,
    StaleNumber,
    TaskFailed,
    UnknownLane,
    UnknownTask,
)
from rota.common.results import Result
from rota.common.work import Limits

if TYPE_CHECKING:
    from rota.client.aio import AsyncBatch, AsyncClient, AsyncHandle

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "AsyncHandle",
    "Batch",
    "Busy",
    "Client",
    "Draining",
    "Expired",
    "Handle",
    "Limits",
    "Missed",
    "NotReachable",
    "NumberReused",
    "Result",
    "RotaError",
    "StaleNumber",
    "TaskFailed",
    "TaskRow",
    "UnknownLane",
    "UnknownTask",
]


def __getattr__(name: str) -> Any:
    if name in ("AsyncBatch", "AsyncClient", "AsyncHandle"):
        from rota.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
