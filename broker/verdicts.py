"""Outcomes that no worker computed, with texts that are the same on every host. PURE.

They are verdicts of a broker, cancels, and outcomes for names that are not bound. Kind and text enter the lane digest,
so they name neither workers nor their reasons, which go into events and logs. All such texts are here.
"""

from __future__ import annotations

from typing import Final

from rota.common.calls import keyed_call_text
from rota.common.limits import POISON_DEATHS_MAX, TRIES_MAX
from rota.common.targets import MODEL_PREFIX, code_name
from rota.common.work import MODEL, NOT_DEPLOYED, Code, Failed

TIMEOUT: Final = "timeout"
LOST: Final = "lost"
REFUSED: Final = "refused"
FAULTED: Final = "faulted"
UNREPEATABLE: Final = "unrepeatable"  # a fold that stops so ends in the verdict `refused`, with a text of its own
EXPIRED: Final = "expired"
VERDICTS: Final = (TIMEOUT, LOST, REFUSED, FAULTED, EXPIRED)


_EXPIRED_TEXT: Final = "its deadline passed before its answer came"


def verdict_text(kind: str, code: Code) -> str:
    """Return the text of a verdict on a task bound to this code."""
    assert kind in VERDICTS, kind
    if kind == TIMEOUT:
        return f"it ran longer than {code.limits.timeout_ms} ms"
    if kind == LOST:
        return f"{POISON_DEATHS_MAX} workers died running it alone"
    if kind == REFUSED:
        return "no worker can run its code"
    if kind == EXPIRED:
        return _EXPIRED_TEXT
    return f"no worker could do it, in {TRIES_MAX} tries"


_UNREPEATABLE_TEXT: Final = (
    "its results would not be repeatable: deploy the model with --recorded to accept them as recorded values"
)


def verdict_of(stopped: str, code: Code) -> tuple[str, str]:
    """Return kind and text of the verdict on a task of this code that stopped for good in this way."""
    if stopped == UNREPEATABLE:
        return REFUSED, _UNREPEATABLE_TEXT
    return stopped, verdict_text(stopped, code)


def can_say(kind: str, text: str, code: Code) -> bool:
    """Return whether a broker may give this verdict, in these words, on a task bound to this code."""
    if (kind, text) == (REFUSED, _UNREPEATABLE_TEXT):
        return code.kind == MODEL and not code.recorded
    return text == verdict_text(kind, code)


CANCELLED: Final = Failed("cancelled", "cancelled on request", (), 0)
OVERDUE: Final = Failed(EXPIRED, _EXPIRED_TEXT, (), 0)


def unknown(address: str) -> Failed:
    """Return the outcome of a task whose name was not bound at issue."""
    kind = "unknown_model" if address.startswith(MODEL_PREFIX) else "unknown_agent"
    return Failed(kind, f"{code_name(address)!r} {NOT_DEPLOYED}", (), 0)


def rebound(address: str) -> Failed:
    """Return the outcome of a reply, failure or timer for an agent whose name is bound to a flow by now."""
    name = code_name(address)
    return Failed("unknown_agent", f"{name!r} is bound to a flow now, so the agent {address!r} gets nothing", (), 0)


def keyed_call(address: str) -> Failed:
    """Return the outcome of a call of a flow with a key."""
    return Failed("bad_input", keyed_call_text(code_name(address)), (), 0)
