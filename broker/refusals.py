"""Refusals of requests. PURE."""

from __future__ import annotations

from rota.broker.state import BrokerState
from rota.common import errors
from rota.common.messages import Refused


def refuse(broker: BrokerState, identity: bytes, number: int, error: errors.RotaError) -> None:
    """Refuse a request of a producer with an error."""
    broker.answer(identity, Refused(number, error.code, error.message, error.fields))


def storage_full(broker: BrokerState) -> errors.StorageFull:
    """Return the refusal of inputs while the journal cannot be written."""
    return errors.StorageFull(
        f"the journal cannot be written ({broker.storage_full}): nothing was accepted; free some space",
        reason=broker.storage_full,
        pending=False,
    )
