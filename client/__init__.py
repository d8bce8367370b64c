"""Clients for producers: `Client` (blocking) and `AsyncClient` (asyncio). docs/CLIENT.md shows how to use them.

Only names that producers need are exported. Those of the asyncio client are loaded on first use, since importing
asyncio takes longer than everything else together.
"""

from typing import TYPE_CHECKING, Any

from rota.client.client import Batch, Client, Handle
from rota.client.generation import Generation
from rota.client.operations import TaskRow
from rota.client.watch import Missed
from rota.common.chat import Chat
from rota.common.errors import (
    Busy,
    Draining,
    Expired,
    NotReachable,
    NumberReused,
    RotaError,
    StaleNumber,
    TaskFailed,
    TextReplaced,
    UnknownLane,
    UnknownTask,
)
from rota.common.results import Result
from rota.common.text_calls import NEW_CONVERSATION
from rota.common.work import Limits

if TYPE_CHECKING:
    from rota.client.aio import AsyncBatch, AsyncClient, AsyncHandle
    from rota.client.aio_generation import AsyncChat, AsyncGeneration

__all__ = [
    "NEW_CONVERSATION",
    "AsyncBatch",
    "AsyncChat",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncHandle",
    "Batch",
    "Busy",
    "Chat",
    "Client",
    "Draining",
    "Expired",
    "Generation",
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
    "TextReplaced",
    "UnknownLane",
    "UnknownTask",
]


def __getattr__(name: str) -> Any:
    if name in ("AsyncBatch", "AsyncClient", "AsyncHandle"):
        from rota.client import aio

        return getattr(aio, name)
    if name in ("AsyncChat", "AsyncGeneration"):
        from rota.client import aio_generation

        return getattr(aio_generation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
