"""Follows one lane through a journal and brings it to a turn.

A journal has the state after a fold, not after each task in it. If the turn lies inside a fold, the tasks of that fold
are executed up to it; everything before is taken as recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from rota.broker import records
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common.errors import JournalError
from rota.engine.engine import Runner
from rota.proof.model_answers import ReadBack
from rota.proof.replay import BATCH_TASKS, LaneReplay
from rota.runs.lane_record import lane_opening
from rota.runs.open import RunSource
from rota.runs.walk import Step, Walk, lane_of, retire_order


class Follower:
    """Passes what concerns one lane from the walk over a journal to the replay of the lane."""

    def __init__(
        self,
        lane: str,
        runner: Runner,
        *,
        trusted: Callable[[int], bool] | None = None,
        keep: Callable[[records.Record], None] | None = None,
        live_models: bool = False,
        batch_tasks: int = BATCH_TASKS,
    ) -> None:
        self.lane = lane
        self.replay: LaneReplay | None = None  # set when the lane is opened
        self._recorded: dict[int, Task] = {}
        self.runner = ReadBack(runner, self._recorded)
        self._live_models = live_models
        self._trusted = trusted
        self._keep = keep
        self._batch_tasks = batch_tasks

    def hear(self, step: Step, walk: Walk) -> Iterator[Task]:
        """Take a step of the journal; yields the tasks that retire in the replay."""
        record = step.record
        if isinstance(record, records.Opened) and record.lane == self.lane:
            self.replay = self._replay(lane_opening(record, walk.world))
        self.begin(walk)
        if self.replay is None or step.lane is None or step.lane.name != self.lane:
            return
        if not self._live_models:
            for task in step.notes.finished:
                if task.provenance is not None:  # a model answered
                    self._recorded[task.turn] = task
        for task in self._heard(step, walk, self.replay):
            self._recorded.pop(task.turn, None)  # of a trusted turn
            yield task

    def begin(self, walk: Walk) -> None:
        """Start the replay where the kept records begin, if the lane was open there."""
        if self.replay is None and (world := walk.lane_world(self.lane)) is not None:
            self.replay = self._replay(world)

    def _heard(self, step: Step, walk: Walk, replay: LaneReplay) -> Iterator[Task]:
        if isinstance(step.record, records.Completion):
            yield from replay.follow(step.record, *walk.worker(step.record.fingerprint))
        elif step.lane_input is not None:
            yield from replay.take(step.lane_input)

    def _replay(self, begin: records.Opened | World) -> LaneReplay:
        return LaneReplay(begin, self.runner, trusted=self._trusted, keep=self._keep, batch_tasks=self._batch_tasks)


class LaneAtTurn(NamedTuple):
    """A lane at a turn, and the rest of the journal."""

    replay: LaneReplay
    walk: Walk
    ahead: list[Task]  # tasks that the journal's step retired after the turn
    rest: Iterator[Step]


def lane_at(
    source: RunSource,
    lane: str,
    turn: int,
    runner: Runner,
    *,
    before: bool = False,
    keep: Callable[[records.Record], None] | None = None,
) -> LaneReplay:
    """Return a lane as `seek` finds it."""
    return seek(source, lane, turn, runner, before=before, keep=keep).replay


def seek(
    source: RunSource,
    lane: str,
    turn: int,
    runner: Runner,
    *,
    before: bool = False,
    keep: Callable[[records.Record], None] | None = None,
    watch: Callable[[Step], None] | None = None,
) -> LaneAtTurn:
    """Bring a lane to just after a turn retired, or just before; turn 0 is the lane's start.

    If the tasks behind the turn had an outcome already (from a cancel, for instance), they have retired with it.

    Inputs that took effect after that retire and before the next are in the rest. `keep` gets the records up to there,
    `watch` the steps of the journal. The lane's digest is the journal's. Raises `UnknownLane`; `UnknownTask` if the
    turn has not retired; `JournalError` if the execution differs from the journal.
    """
    order = retire_order(source, lane, turn)
    trusted = dict.fromkeys(order[:-1] if before else order)
    follower = Follower(lane, runner, trusted=trusted.__contains__, keep=keep)
    walk = Walk(source)
    steps = walk.steps()
    start, digest = walk.begin_of(lane)
    position, ahead = start + len(trusted), list[Task]()
    if turn == 0:
        follower.begin(walk)
    for step in steps if follower.replay is None else ():
        if watch is not None:
            watch(step)
        retired = step.retired(lane)
        place = next((place for place, task in enumerate(retired) if task.turn == turn), None)
        known = retired if place is None else retired[: place + (not before)]
        digest = known[-1].turn_digest or digest if known else digest
        if place is not None and before and step.lane_input is not None:
            ahead, steps = retired[place:], chain([step], steps)
            break  # the turn retired because of this input
        _hear_up_to(follower, step, walk, position)
        if place is not None or (turn == 0 and follower.replay is not None):
            ahead = retired[len(known) :]
            break
    lane_of(walk.world, lane)
    replay = follower.replay
    assert replay is not None
    _drain(replay.run_to(position))
    # Tasks with an outcome before their turn (a cancel, a name without code) retire together with the one before.
    decided = replay.lane.retired - position
    if 0 < decided <= len(ahead):
        digest = ahead[decided - 1].turn_digest or digest
        ahead = ahead[decided:]
    if decided < 0 or replay.lane.digest != digest:
        raise JournalError(
            f"lane {lane!r} does not come to turn {turn} again when it is executed: run `rota verify` to see why",
            lane=lane,
            turn=turn,
        )
    return LaneAtTurn(replay, walk, ahead, steps)


def _hear_up_to(follower: Follower, step: Step, walk: Walk, position: int) -> None:
    if follower.replay is not None:
        follower.replay.until = position
    _drain(follower.hear(step, walk))


def _drain(retired: Iterator[Task]) -> None:
    for _ in retired:
        pass
