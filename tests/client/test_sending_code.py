"""A deploy whose code the broker lacks: what a client sends, with the broker's answers given by the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from wasi_programs import CAT

from rota.client.core import Core
from rota.client.operations import Operations
from rota.client.options import DeployOptions
from rota.common.digests import digest
from rota.common.errors import NotKept
from rota.common.messages import Accepted, Answer, Deploy, Hello, Keep, Message, Refused, Welcome
from rota.common.wire import FROM_PRODUCERS, decode, encode
from rota.runtimes.content import Extras, content_of

BUNDLE = content_of(CAT, None, Extras()).digest


@pytest.fixture
def core(run_dir: Path) -> Iterator[Core]:
    with closing(Core(run_dir, "p", timeout_s=30, contact_s=None, tensors=None, context=None)) as found:
        found.session.receive(encode(Welcome(0, 1, "test")), 0)
        yield found


def conversation(core: Core, answers: list[Message | bytes]) -> list[Message]:
    """Deploy a command; each message of the client is answered by the next of these, bytes: that they are missing."""
    sent: list[Message] = []
    with closing(Operations(core).deploy("cat", CAT, DeployOptions(number=7, check=False))) as exchange:
        for _ in exchange:
            for frame in core.session.output().frames:
                message = decode(frame, FROM_PRODUCERS)
                if isinstance(message, Hello):
                    continue
                sent.append(message)
                given = answers.pop(0)
                if isinstance(given, bytes):
                    given = Refused(message.number, NotKept.code, "not here", {"missing": [given.hex()]})
                core.session.receive(encode(given._replace(number=message.number)), 0)
    return sent


def test_what_is_missing_is_sent_and_the_deploy_repeated(core: Core) -> None:
    """Goal: code travels when it is wanted, and one number is one deploy. Method: a broker that lacks the bundle, then
    the program; and one that has both.
    """
    done = Answer(0, {}, 1, 1)
    sent = conversation(core, [BUNDLE, Accepted(0, 0, 0), digest(CAT), Accepted(0, 0, 0), done])
    assert [type(one) for one in sent] == [Deploy, Keep, Deploy, Keep, Deploy]
    assert sent[0] == sent[2] == sent[4]
    assert sent[0].number == 7
    keeps = [one for one in sent if isinstance(one, Keep)]
    assert [one.digest for one in keeps] == [BUNDLE, digest(CAT)]
    assert all(one.digest == digest(one.data) for one in keeps)
    assert [type(one) for one in conversation(core, [done])] == [Deploy]


@pytest.mark.parametrize("missing", [[bytes(32)], [BUNDLE, Accepted(0, 0, 0), BUNDLE]], ids=["foreign", "twice"])
def test_a_broker_that_asks_for_what_it_cannot_get_is_not_asked_for_ever(
    core: Core, missing: list[Message | bytes]
) -> None:
    """Goal: an end whatever the broker says. Method: it misses what is no part of the code, or what it was sent."""
    with pytest.raises(NotKept):
        conversation(core, missing)
