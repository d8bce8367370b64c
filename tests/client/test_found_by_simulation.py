"""Faults of the client found by the simulator (tests/simulation/), each in the fewest steps that show it.

The seed of each is named, but its run changes with the simulator; the steps here do not.
"""

from __future__ import annotations

from rota.client.session import Session
from rota.common import messages
from rota.common.errors import UnknownTask
from rota.common.wire import FROM_PRODUCERS, decode, encode


def _sent(session: Session) -> list[messages.Message]:
    return [decode(frame, FROM_PRODUCERS) for frame in session.output().frames]


def test_a_refused_request_is_not_sent_again() -> None:
    """Goal: what a caller was told is refused takes no effect later (seed 1250). Method: the Welcome of a new broker
    makes the session ask for everything again, and a refusal is read before that is sent.
    """
    session = Session("loader", 1)
    session.request(messages.Cancel(1, 7), 0)
    session.receive(encode(messages.Welcome(0, 1, "0")), 0)
    _sent(session)
    session.receive(encode(messages.Welcome(0, 2, "0")), 10)
    session.receive(encode(messages.Refused(1, UnknownTask.code, "no task 7", {})), 10)
    output = session.output()
    assert output.reconnect
    assert isinstance(session.answer(1), UnknownTask)
    asked = [decode(frame, FROM_PRODUCERS) for frame in output.frames]
    assert not [request for request in asked if isinstance(request, messages.Cancel)]
