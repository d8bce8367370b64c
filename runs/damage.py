"""Where a journal breaks off: which record, what is wrong with it, and which turns remain unproved.

There are two kinds. The chain of digests is broken: the file is not what the broker wrote. Or the chain is intact (it
was recomputed) but a record does not follow from those before it; then other orders of the records are tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise, takewhile
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.journal import link
from rota.broker.lane import RECORDED_POLICY, Lane
from rota.broker.world import World
from rota.common.errors import JournalError
from rota.runs.open import RunSource
from rota.runs.record_checks import CORRUPT_RECORD, ORDER
from rota.runs.walk import Walk, follows, replaced

LOOK_AHEAD_RECORDS: Final = 32
TRIES_MAX: Final = 4  # each try folds the journal again


class Damage(NamedTuple):
    """The first record that cannot be used. `unproved`: the next turn of each lane that has no proof, by lane."""

    record: int
    last_good: int
    lane: str | None
    turn: int | None
    cause: str
    why: str
    unproved: tuple[tuple[str, int], ...]
    is_chain: bool


def find_damage(source: RunSource, error: JournalError) -> Damage:
    """Return where and why reading or folding a run's journal ended with this error, or which snapshot is wrong."""
    if "snapshot" in error.fields:  # all records follow
        number = source.extent()[1]
        return Damage(error.fields["snapshot"], number, None, None, CORRUPT_RECORD, error.message, (), True)
    walk = Walk(source)
    last_good = max(source.extent()[0], 1) - 1
    with contextlib.suppress(JournalError):
        for step in walk.steps():
            last_good = step.number
    if walk.number > last_good:  # it could be read, but does not follow
        return _unfit(source, last_good + 1, error.message)
    return _unreadable(source, walk.world, last_good, error.message)


# --- the chain is broken --------------------------------------------------------------------------


def _unreadable(source: RunSource, world: World, last_good: int, message: str) -> Damage:
    record, why = _look_at_row(source, last_good, message)
    unproved = _unproved(world)
    known = dict(unproved)
    lane = getattr(record, "lane", None)
    if lane not in known:
        lane = unproved[0][0] if unproved else None
    turn = None if lane is None else known[lane]
    return Damage(last_good + 1, last_good, lane, turn, CORRUPT_RECORD, why, unproved, True)


def _look_at_row(source: RunSource, last_good: int, message: str) -> tuple[records.Record | None, str]:
    """Return the record after the last good one as far as it can be decoded, and what is wrong with it."""
    number = last_good + 1
    try:
        rows = {entry.number: (entry.body, entry.chain) for entry in source.entries(last_good, 3)}
    except JournalError as error:
        return None, f"record {number} cannot be read: {error.message}"
    before, row, after = rows.get(last_good), rows.get(number), rows.get(number + 1)
    if row is None:
        return None, f"record {number} is missing" if after is not None else message
    said, body = _decoded(row[0])
    if before is None and last_good:
        return said, message
    follows = link(before[1] if before else bytes(32), row[0])
    if follows == row[1]:
        unknown = f"record {number} follows in the chain, but its body is not of this version: {body}"
        return said, unknown if body else message
    if after is not None and link(row[1], after[0]) == after[1]:
        what = "its body was changed after it was written: the chain has the digest of another one"
    elif after is not None and link(follows, after[0]) == after[1]:
        what = "its chain digest was changed after it was written"
    else:
        what = "the chain of digests does not follow from here on"
    return said, f"record {number} ({body or _named(said)}) is damaged: {what}"


def _decoded(body: bytes) -> tuple[records.Record | None, str]:
    """Return a record, or None and why it cannot be decoded."""
    try:
        return records.decode(body), ""
    except JournalError as error:
        return None, error.message


def _named(record: records.Record | None) -> str:
    """Return a short description of a record."""
    kind = type(record).__name__
    lane = getattr(record, "lane", None)
    said = kind if lane is None else f"{kind} in lane {lane!r}"
    if isinstance(record, records.Completion):
        turns = [turn for fold in record.folds for turn in fold.turns]
        said += f", turns {', '.join(map(str, turns[:8]))}{' and more' if len(turns) > 8 else ''}"
    return said


# --- a record does not follow ---------------------------------------------------------------------


def _unfit(source: RunSource, number: int, message: str) -> Damage:
    world = Walk(source).run_to(number - 1)
    rows = _from(source, number)
    record = rows[0]
    unproved = _unproved(world)
    lane = world.lanes.get(getattr(record, "lane", ""))
    if lane is not None and isinstance(record, records.Mark):
        return _missed_mark(source, number, lane, message, unproved)
    name = None if lane is None else lane.name
    moved = _right_order(source, number, rows, world)
    if moved is not None:
        turn = None if lane is None else _first_of([record, rows[moved - number]], lane)
        why = f"record {number} stands in the wrong place: with record {moved} before it, both follow"
        return Damage(number, number - 1, name, turn, ORDER, why, unproved, False)
    if lane is None:
        return Damage(number, number - 1, None, None, CORRUPT_RECORD, message, unproved, False)
    turn = next_turn(lane)
    if isinstance(record, records.Completion):
        done = [one for fold in record.folds for one in fold.turns if not _awaits(lane, one)]
        if done:
            turn = done[0]
    return Damage(number, number - 1, name, turn, CORRUPT_RECORD, message, unproved, False)


def _right_order(source: RunSource, number: int, rows: Sequence[records.Record], world: World) -> int | None:
    """Return the number of a later record that fits here, if all records up to it then fit too; else None."""
    tries = 0
    for place in range(1, len(rows)):
        if tries == TRIES_MAX:
            return None
        if not _may_follow(rows[place], world):
            continue
        tries += 1
        exchanged = [rows[place], *rows[1:place], rows[0]]
        moved = [rows[place], *rows[:place]]
        if _folds(source, number, exchanged) or (place > 1 and _folds(source, number, moved)):
            return number + place
    return None


def _may_follow(record: records.Record, world: World) -> bool:
    """Return False if a cheap check shows that a record cannot be the next one."""
    if isinstance(record, records.Fingerprint):
        return record.number == len(world.fingerprints) + 1
    if isinstance(record, records.Opened):
        return record.lane not in world.lanes
    lane = world.lanes.get(getattr(record, "lane", ""))
    if isinstance(record, records.Completion):
        return lane is not None and all(_awaits(lane, turn) for fold in record.folds for turn in fold.turns)
    if isinstance(record, records.Submitted) and record.first_seq != world.next_seq:
        return False
    position = getattr(record, "position", None)
    return lane is not None and position is not None and position == lane.retired


def _awaits(lane: Lane, turn: int) -> bool:
    task = lane.line_by_turn.get(turn)
    return task is not None and task.outcome is None


def _folds(source: RunSource, number: int, rows: Sequence[records.Record]) -> bool:
    """Return whether these records can be applied after those before `number`."""
    before = takewhile(lambda one: one[0] < number, source.records())
    return follows(Walk(source), chain(before, enumerate(rows, number)))


def _from(source: RunSource, number: int) -> list[records.Record]:
    """Return the readable records from a number on, up to the bound."""
    rows: list[records.Record] = []
    with contextlib.suppress(JournalError):
        rows += islice((record for found, record in source.records() if found >= number), LOOK_AHEAD_RECORDS)
    return rows


# --- a mark is not met ----------------------------------------------------------------------------


def _missed_mark(
    source: RunSource, number: int, lane: Lane, message: str, unproved: tuple[tuple[str, int], ...]
) -> Damage:
    """Look for the cause among what cannot be executed, since all that was executed agrees and a mark does not."""
    since, decisions = _since_mark(source, number, lane.name)
    for (first, one), (second, other) in pairwise(since):
        if other.now_ms < one.now_ms and _meets(source, number, {first: other, second: one}):
            turn = min(one.folds[0].turns[0], other.folds[0].turns[0])
            why = f"records {first} and {second} are exchanged: the other way round the mark in record {number} is met"
            return Damage(number, number - 1, lane.name, turn, ORDER, why, unproved, False)
    turn = decisions[0] if decisions else since[0][1].folds[0].turns[0] if since else next_turn(lane)
    return Damage(number, number - 1, lane.name, turn, CORRUPT_RECORD, message, unproved, False)


def _since_mark(source: RunSource, number: int, lane: str) -> tuple[list[tuple[int, records.Completion]], list[int]]:
    """Return a lane's completions, and the turns with a verdict, between its previous mark and `number`."""
    since: list[tuple[int, records.Completion]] = []
    decisions: list[int] = []
    before = takewhile(lambda one: one[0] < number, source.records())
    for step in Walk(source).steps(before):
        record = step.record
        if step.lane is None or step.lane.name != lane:
            continue
        if isinstance(record, records.Mark):
            since, decisions = [], []
        elif isinstance(record, records.Completion):
            since.append((step.number, record))
        elif isinstance(step.lane_input, records.Verdict):
            decisions.append(step.lane_input.seq)
    return since, decisions


def _meets(source: RunSource, number: int, changed: dict[int, records.Record]) -> bool:
    """Return whether a journal folds up to and including `number` with some records replaced."""
    read = takewhile(lambda one: one[0] <= number, source.records())
    return follows(Walk(source), replaced(read, changed))


# --- what is not proved ---------------------------------------------------------------------------


def next_turn(lane: Lane) -> int:
    """Return the turn that retires next if known, else the next one to be stamped."""
    line = list(lane.line_by_turn)
    if line:
        return min(line) if lane.settings.policy == RECORDED_POLICY else line[0]
    waiting = [run.first_turn + run.issued for run in lane.waiting_runs()]
    return min(waiting, default=lane.next_turn)


def _first_of(found: Sequence[records.Record], lane: Lane) -> int:
    """Return the first turn that these records of a lane name."""
    turns: list[int] = []
    for record in found:
        if isinstance(record, records.Completion) and record.lane == lane.name:
            turns += chain.from_iterable(fold.turns for fold in record.folds)
        elif isinstance(record, records.Submitted) and record.lane == lane.name:
            turns.append(lane.next_turn)
    return min(turns, default=next_turn(lane))


def _unproved(world: World) -> tuple[tuple[str, int], ...]:
    return tuple([(name, next_turn(lane)) for name, lane in _sorted(world)])


def _sorted(world: World) -> Iterator[tuple[str, Lane]]:
    for name in sorted(world.lanes):
        yield name, world.lanes[name]
