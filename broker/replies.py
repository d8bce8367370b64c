"""Replies to asks: the outcome of the asked task as a message to the asker. PURE.

The rules are part of the lane's meaning (docs/JOURNAL.md): the reply must fit into the reserved room, so that it cannot
push the lane past its budget.
"""

from __future__ import annotations

from typing import Final

import msgpack

from rota.broker.tasks import Run
from rota.common.budget import FAILURE_FREE_BYTES, content_bytes
from rota.common.limits import PAYLOAD_BYTES_MAX
from rota.common.work import FAILURE, REPLY, Done, Emit, Failed, Outcome

_FAILURE_HEAD_BYTES: Final = 32  # of a failure's payload: its kind and the headers of both texts

_pack: Final = msgpack.Packer(autoreset=True).pack


def reply(asked: Run, outcome: Outcome, left: int) -> Emit:
    """Return the message that answers an asked task of this run; its content may count at most `left` bytes."""
    asker, priority = asked.sender, asked.priority
    assert asker is not None
    if type(outcome) is Done:
        failure = _no_reply(outcome, left)
        if failure is None:
            return Emit(asker, outcome.result or b"", priority, REPLY, outcome.tensors, 0)
    else:
        assert type(outcome) is Failed
        failure = outcome
    text = failure.message.encode()[: left + FAILURE_FREE_BYTES - _FAILURE_HEAD_BYTES].decode(errors="ignore")
    return Emit(asker, _pack((failure.kind, text)), priority, FAILURE, (), 0)


def _no_reply(done: Done, left: int) -> Failed | None:
    """Return why a result cannot be a reply; None if it can."""
    result = done.result or b""
    if len(result) > PAYLOAD_BYTES_MAX:
        return Failed("bad_output", f"a result of over {PAYLOAD_BYTES_MAX} bytes cannot be a reply", (), 0)
    size = content_bytes(REPLY, len(result), done.tensors)
    if size > left:
        return Failed("overflow", f"a reply of {size} bytes, at most {left} (growth_bytes)", (), 0)
    return None
