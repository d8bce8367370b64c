"""How a request is refused. PURE."""

from __future__ import annotations

from rota.broker.state import BrokerState
from rota.common import errors
from rota.common.messages import Refused


def refuse(broker: BrokerState, identity: bytes, number: int, error: errors.RotaError) -> None:
    """Tell a producer that its request was not carried out, and why."""
    broker.answer(identity, Refused(number, error.code, error.message, error.fields))


def storage_full(broker: BrokerState) -> errors.StorageFull:
    """What is said to inputs while the journal cannot be written."""
    return errors.StorageFull(
        f"the journal cannot be written ({broker.storage_full}): nothing was accepted; free some space",
        reason=broker.storage_full,
        pending=False,
    )
