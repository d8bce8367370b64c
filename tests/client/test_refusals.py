"""A refusal of an earlier request must not affect later tasks, and impossible numbers are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rota.broker.lock import FolderLock
from rota.client import Client
from rota.client.session import RESULTS_HELD_MAX, Session
from rota.common import messages
from rota.common.errors import BadPayload, BadTarget, ConfigError, UnknownTask
from rota.common.targets import check_target
from rota.common.wire import encode


def test_a_new_task_forgets_what_was_refused_under_its_number() -> None:
    """Goal: a task that ran is never reported as unknown. Method: await numbers that do not exist yet, then get one."""
    session = Session("p", 1)
    session.receive(encode(messages.Welcome(0, 1, "x")), 0)
    session.want(1, 3, 0)
    awaited = list(session._awaits)
    session.receive(encode(messages.Refused(awaited[0], UnknownTask.code, "no task 3", {"seq": 3})), 0)
    assert isinstance(session.take_result(2), UnknownTask)
    number = session.take_number(None)
    session.request(messages.Submit(number, "main", (messages.TaskRun.of("a", 0, (b"",), None),), True, None, None), 0)
    session.receive(encode(messages.Accepted(number, 3, 1)), 0)
    assert session.take_result(3) is None


def test_numbers_that_cannot_be_are_refused(run_dir: Path) -> None:
    """Goal: no endless work and no wrong advice. Method: too many results, no time at all; no broker is needed."""
    with Client(run_dir) as client:
        with pytest.raises(BadPayload, match="from 0 to"):
            client.results(1, RESULTS_HELD_MAX + 1)
        with pytest.raises(ConfigError, match="more than 0"):
            client.submit("a", b"", timeout_s=0)
    with pytest.raises(ConfigError, match="more than 0"):
        Client(run_dir, timeout_s=-1)


def test_a_target_with_half_a_character_is_refused() -> None:
    """Goal: what cannot be sent is refused by name. Method: half of a surrogate pair."""
    with pytest.raises(BadTarget):
        check_target("counter/\udcff")


def test_a_producer_id_that_cannot_travel_is_refused(run_dir: Path) -> None:
    """Goal: a message instead of a UnicodeEncodeError at the first Hello. Method: half of a surrogate pair."""
    with pytest.raises(BadTarget, match="not UTF-8"):
        Client(run_dir, producer="p\udcff")


def test_a_lock_that_cannot_be_made_is_a_setting_to_mend(tmp_path: Path) -> None:
    """Goal: exit code and remedy instead of a traceback. Method: a folder where the lock should be."""
    (tmp_path / "broker.lock").mkdir()
    with pytest.raises(ConfigError, match="--dir"), FolderLock(tmp_path / "broker.lock"):
        pass
