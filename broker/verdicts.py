"""The verdicts of a broker: why a task got no outcome from a worker, in words that are the same on every host. PURE.

The text of a verdict is part of the lane digest, so it says neither who tried nor what he said: that goes into events
and logs. Whoever passes verdicts takes the text from here.
"""

from __future__ import annotations

from typing import Final

from rota.common.limits import POISON_DEATHS_MAX, TRIES_MAX
from rota.common.work import Code

TIMEOUT: Final = "timeout"
LOST: Final = "lost"
REFUSED: Final = "refused"
FAULTED: Final = "faulted"
VERDICTS: Final = (TIMEOUT, LOST, REFUSED, FAULTED)


def verdict_text(kind: str, code: Code) -> str:
    """Return the text of a verdict on a task that is bound to this code."""
    assert kind in VERDICTS, kind
    if kind == TIMEOUT:
        return f"it ran longer than {code.limits.timeout_ms} ms"
    if kind == LOST:
        return f"{POISON_DEATHS_MAX} workers died running it alone"
    if kind == REFUSED:
        return "no worker can run its code"
    return f"no worker could do it, in {TRIES_MAX} tries"
