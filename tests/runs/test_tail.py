"""Following a journal: new records arrive once and in order, no file is left behind, and a replaced one is noticed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from eventful import eventful, records_of, write_run

from rota.broker.journal import Journal
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError
from rota.host.endpoints import RunFolder
from rota.runs.tail import Tail


def test_records_arrive_once_while_they_are_written(tmp_path: Path) -> None:
    """Goal: nothing twice, nothing lost. Method: look after each commit, and after the writer has closed the file."""
    found = records_of(eventful())
    path = RunFolder(write_run(tmp_path / "run", found[:5])).journal
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == found[:5]
        tail = Tail(path, 5, journal.chain)
        assert list(tail.read()) == []
        journal.append(found[5:9])
        assert list(tail.read()) == list(enumerate(found[5:9], 6))
        assert list(tail.read()) == []
        journal.append(found[9:])
    before = sorted(path.parent.iterdir())
    assert list(tail.read()) == list(enumerate(found[9:], 10)), "closed in order: the WAL is gone"
    assert sorted(path.parent.iterdir()) == before, "looking leaves no file behind"


def test_another_journal_in_its_place_is_refused(tmp_path: Path) -> None:
    """Goal: two runs are not taken for one. Method: a tail whose chain is of another journal, and one that is gone."""
    path = RunFolder(write_run(tmp_path / "run", records_of(eventful()))).journal
    with pytest.raises(JournalError, match="does not follow from record 3"):
        list(Tail(path, 3, ZERO_DIGEST).read())
    path.unlink()
    with pytest.raises(JournalError, match="start again"):
        list(Tail(path, 3, ZERO_DIGEST).read())


def test_a_cut_journal_is_refused(tmp_path: Path) -> None:
    """Goal: no gap goes by unseen. Method: a tail that has seen less than what is still there."""
    found = records_of(eventful())
    path = RunFolder(write_run(tmp_path / "run", found)).journal
    with closing(Journal.open(path)) as journal:
        assert len(list(journal.read())) == len(found)
        journal.log.cut(8)
        assert journal.log.drop_cut(100)
        with pytest.raises(JournalError, match="compacted"):
            list(Tail(path, 3, ZERO_DIGEST).read())
