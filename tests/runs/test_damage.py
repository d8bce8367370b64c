"""Where a journal breaks off: the record, what is wrong with it, and which turns remain unproved."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from eventful import eventful, records_of, write_run

from rota.broker import records
from rota.common.errors import JournalError
from rota.runs.damage import Damage, find_damage
from rota.runs.open import open_run
from rota.runs.record_checks import CORRUPT_RECORD, ORDER
from rota.runs.walk import Walk


def damage_of(path: Path) -> Damage:
    """The damage found in a run whose journal breaks off."""
    with open_run(path) as source, pytest.raises(JournalError) as stopped:
        for _ in Walk(source).steps():
            pass
    with open_run(path) as source:
        return find_damage(source, stopped.value)


def changed(path: Path, statement: str, *values: object) -> Path:
    with closing(sqlite3.connect(path / "run.rota")) as connection, connection:
        connection.execute(statement, values)
    return path


def test_a_body_that_was_changed_is_told_from_a_chain_that_was(tmp_path: Path) -> None:
    """Goal: the report says what was touched. Method: a byte of a body, then of the digest beside it."""
    found = records_of(eventful())
    for name, statement in (("body", "body = CAST(body || x'00' AS BLOB)"), ("chain", "chain = zeroblob(32)")):
        path = changed(write_run(tmp_path / name, found), f"UPDATE records SET {statement} WHERE number = ?", 9)
        damage = damage_of(path)
        assert (damage.record, damage.last_good, damage.is_chain, damage.cause) == (9, 8, True, CORRUPT_RECORD)
        assert f"its {name}" in damage.why
        assert damage.unproved == (("main", 4),)


def test_a_record_that_is_missing_is_named(tmp_path: Path) -> None:
    """Goal: a gap is no damage of its neighbours. Method: take one record out."""
    damage = damage_of(
        changed(write_run(tmp_path / "r", records_of(eventful())), "DELETE FROM records WHERE number = 9")
    )
    assert (damage.record, damage.is_chain, damage.why) == (9, True, "record 9 is missing")


def test_a_record_in_the_wrong_place_finds_its_own(tmp_path: Path) -> None:
    """Goal: a chain made anew over exchanged records. Method: exchange a submit with the completion that follows it."""
    found = records_of(eventful())
    first = next(place for place, one in enumerate(found) if type(one) is records.Submitted)
    found[first], found[first + 1] = found[first + 1], found[first]
    damage = damage_of(write_run(tmp_path / "r", found))
    assert (damage.record, damage.last_good, damage.is_chain, damage.cause) == (first + 1, first, False, ORDER)
    assert f"with record {first + 2} before it" in damage.why


@pytest.mark.parametrize(("kind", "change"), [
    (records.Completion, lambda one: one._replace(fingerprint=9)),
    (records.Epoch, lambda one: one._replace(boot=7)),
    (records.Submitted, lambda one: one._replace(first_seq=900)),
])  # fmt: skip
def test_a_record_that_fits_nowhere_is_corrupt(kind: type, change: Callable[[Any], Any], tmp_path: Path) -> None:
    """Goal: what no order mends is said to be so. Method: change one field and make the chain anew."""
    found = records_of(eventful())
    place = next(place for place, one in enumerate(found) if type(one) is kind)
    found[place] = change(found[place])
    damage = damage_of(write_run(tmp_path / "r", found))
    lane = None if kind is records.Epoch else "main"  # the first record, before any lane
    assert (damage.record, damage.last_good, damage.lane, damage.cause) == (place + 1, place, lane, CORRUPT_RECORD)
