"""Fork, upgrade proof and bisect, on runs of real agents that were made in this process.

The run has inputs at many positions: tasks that emit, a failure, a cancel, a timer, and agents whose tasks are not one
record each, so that a cut goes through the middle of completions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from run_kit import write_run

from rota import local
from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.origins import request_digest
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common.digests import ZERO_DIGEST, digest
from rota.common.errors import BadChange, CodeError, ConfigError, UnknownLane, UnknownTask
from rota.common.limits import PRODUCERS_MAX
from rota.common.messages import LaneSettings, SetPaused, TaskRun
from rota.common.work import Code, Failed
from rota.engine.engine import Engine
from rota.engine.executors import Executors, Folders
from rota.engine.folds import fold_of
from rota.host.endpoints import RunFolder
from rota.proof.bisect import Predicate, find_first
from rota.proof.changed import ChangePlan, Consequences, follow_change
from rota.proof.continuation import Change
from rota.proof.fork import NewCode, fork
from rota.proof.seek import lane_at
from rota.proof.upgrade import check_upgrade
from rota.proof.verify import VerifyOptions, verify
from rota.runs.open import RunSource, open_run
from rota.runs.walk import Walk

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
NAMES = ("relay", "counter", "asker", "reminder")


def bytes_of(name: str) -> bytes:
    return (AGENTS / f"{name}.wasm").read_bytes()


def make_run(folder: Path) -> Path:
    with local.open_lane(keep=folder, window=16) as lane:
        for name in NAMES:
            lane.deploy(name, AGENTS / f"{name}.wasm")
        lane.submit_many("relay/0", [b"2 3 5", b"1 2 5", b"nonsense", b"0 0"])
        lane.run(5)
        lane.submit("reminder/r", b"500 wake")
        lane.submit("asker/a", b"counter/x")
        lane.run()
        lane.submit_many("counter/x", [b""] * 6)
        caught = lane.submit("counter/y", b"")
        lane.cancel(caught)
        lane.run(3)
        lane.advance(1_000)
        lane.submit("relay/1", b"1 4 5")
        lane.run()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def source(run: Path):
    with open_run(run) as opened:
        yield opened


@pytest.fixture
def executors(source: RunSource):
    with Executors(source.folders(), device="cpu") as made:
        yield made


def order_of(source: RunSource) -> list[tuple[int, bytes | None]]:
    """Turns in retire order, with the lane digest after each."""
    return [(task.turn, task.turn_digest) for step in Walk(source).steps() for task in step.retired("main")]


def is_decided(task: Task) -> bool:
    """Whether a cancel caught it before it ran, so that it retires together with the task before it."""
    return isinstance(task.outcome, Failed) and task.outcome.kind == "cancelled"


def input_numbers(source: RunSource, kind: str) -> list[int]:
    return [step.number for step in Walk(source).steps() if type(step.record).__name__ == kind]


# --- standing at a turn -----------------------------------------------------------------------------------------------


def test_a_lane_stands_at_every_turn(source: RunSource, executors: Executors) -> None:
    """Goal: any turn can be reached, before and after. Method: go to each, compare position and digest."""
    order = [(0, bytes(32)), *order_of(source)]
    assert len(order) > 25
    passed = {task.turn for step in Walk(source).steps() for task in step.retired("main") if is_decided(task)}
    assert len(passed) == 1
    for position, (turn, _) in enumerate(order):
        lane = lane_at(source, "main", turn, executors).lane
        follows = order[position + 1][0] if position + 1 < len(order) else 0
        passes = follows in passed
        assert (lane.retired, lane.digest) == (position + passes, order[position + passes][1])
        lane = lane_at(source, "main", turn, executors, before=True).lane
        if turn and turn not in passed:
            assert (lane.retired, lane.digest) == (position - 1, order[position - 1][1])


def test_a_turn_that_never_was_is_refused(source: RunSource, executors: Executors) -> None:
    """Goal: typed refusals. Method: a turn past the end, a lane that is not there."""
    with pytest.raises(UnknownTask, match="turn 9999 of lane 'main' has not retired"):
        lane_at(source, "main", 9999, executors)
    with pytest.raises(UnknownLane, match="no lane 'other'"):
        lane_at(source, "other", 1, executors)


# --- fork -------------------------------------------------------------------------------------------------------------


def test_nothing_changed_is_the_same_run(source: RunSource, executors: Executors) -> None:
    """Goal: going on is exact, from every place. Method: go on from every second turn with no change."""
    order = order_of(source)
    for position, turn in [(0, 0), *enumerate([turn for turn, _ in order], start=1)][::2]:
        came = follow_change(source, ChangePlan("main", turn, Change()), executors)
        assert came.same
        assert came.position - position in (0, 1), "a task that was cancelled retires with the one before it"
        assert (came.changed, came.left_out) == (0, ())
        assert (came.retired, came.digest) == (came.was_retired, came.was_digest) == (len(order), order[-1][1])


def forked(source: RunSource, folder: Path, turn: int, change: Change, modules=()) -> Consequences:
    return fork(source, ChangePlan("main", turn, change), list(modules), folder, "a change", device="cpu")


def test_a_fork_is_a_run_that_verifies(source: RunSource, tmp_path: Path) -> None:
    """Goal: a fork is a run like any other. Method: change a payload in the middle, verify what came."""
    *_, last = input_numbers(source, "Submitted")
    cut = order_of(source)[10][0]
    came = forked(source, tmp_path / "fork", cut, Change(edited=((last, 0, b"1 2 5"),)))
    assert came.first is not None
    assert "payload" in came.first.fields
    assert came.shared_digest == order_of(source)[10][1]
    with open_run(tmp_path / "fork") as made:
        fork_order = order_of(made)
        assert fork_order[:11] == order_of(source)[:11], "the prefix is shared by digest"
        assert (len(fork_order), fork_order[-1][1]) == (came.retired, came.digest)
        with Executors(made.folders(), device="cpu") as executors:
            assert verify(made, executors, VerifyOptions()).equal


def test_a_drop_finds_only_what_is_dead_in_the_changed_lane(tmp_path: Path) -> None:
    """Goal: a fork writes what a broker could have. Method: two dead letters are dropped; change one of the two tasks
    so that it succeeds, then both.
    """
    with local.open_lane(keep=tmp_path / "run") as lane:
        lane.deploy("relay", AGENTS / "relay.wasm")
        lane.submit_many("relay/0", [b"nonsense", b"nonsense"])
        lane.run()
        assert lane.drop_dead(1, 2) == 2
    with open_run(tmp_path / "run") as source:
        (number,) = input_numbers(source, "Submitted")
        for place, (edited, left) in enumerate([([0], []), ([0, 1], ["DeadDropped"])]):
            folder = tmp_path / f"fork{place}"
            came = forked(source, folder, 0, Change(edited=tuple((number, index, b"0 0") for index in edited)))
            assert [one.what for one in came.left_out] == left
            with open_run(folder) as made, Executors(made.folders(), device="cpu") as executors:
                drops = [step.record for step in Walk(made).steps() if isinstance(step.record, records.DeadDropped)]
                assert [(drop.seqs, drop.origin) for drop in drops] == [((2,), records.NOBODY)][: 1 - place]
                assert verify(made, executors, VerifyOptions()).equal


def test_a_fork_names_each_request_once(tmp_path: Path) -> None:
    """Goal: a lane alone, and a fork of it, have fewer producers than the run, and remember them for longer. Method: a
    producer that the run has forgotten uses its number again.
    """
    settings = LaneSettings(seed=bytes(32))

    def pause(lane: str, producer: str, paused: bool) -> records.PauseSet:
        request = request_digest(SetPaused(1, lane, paused))
        return records.PauseSet(lane, 0, 0, records.Origin(producer, 1, request), paused)

    found: list[records.Record] = [records.Epoch(1, 0, ())]
    found += [records.Opened(lane, 0, records.NOBODY, settings, False, ()) for lane in ("main", "side")]
    found.append(pause("main", "alice", True))
    found += [pause("side", f"p{index}", True) for index in range(PRODUCERS_MAX)]
    found.append(pause("main", "alice", False))
    with open_run(write_run(tmp_path / "run", found)) as source:
        forked(source, tmp_path / "fork", 0, Change())
        for folder in ("run", "fork"):
            with open_run(tmp_path / folder) as made, Executors(made.folders(), device="cpu") as executors:
                assert verify(made, executors, VerifyOptions()).equal
    with open_run(tmp_path / "fork") as made:
        pauses = [step.record for step in Walk(made).steps() if isinstance(step.record, records.PauseSet)]
    assert [(one.paused, one.origin.producer) for one in pauses] == [(True, "alice"), (False, "")]


def test_a_fork_says_where_it_comes_from(source: RunSource, tmp_path: Path) -> None:
    """Goal: a fork can be told from a run. Method: read the facts of its epoch."""
    forked(source, tmp_path / "fork", 3, Change())
    with closing(Journal.open(RunFolder(tmp_path / "fork").journal, read_only=True)) as journal:
        facts = dict(next(iter(journal.read())).facts)  # type: ignore[union-attr]
    assert facts["forked_at"] == "lane main, turn 3"
    assert facts["change"] == "a change"
    assert facts["forked_from"] == source.name


def test_a_dropped_input_takes_what_follows_from_it(source: RunSource, tmp_path: Path) -> None:
    """Goal: an input can be left out. Method: drop the first submit; its emits and its cancel's task go with it."""
    first, *_ = input_numbers(source, "Submitted")
    came = forked(source, tmp_path / "fork", 0, Change(dropped=(first,)))
    assert came.retired < came.was_retired
    assert [(left.what, "turn" in left.why) for left in came.left_out] == [("Cancelled", True), ("TimerFired", True)]
    with open_run(tmp_path / "fork") as made:
        targets = [task.address for step in Walk(made).steps() for task in step.retired("main")]
    assert "reminder/r" in targets
    assert targets.count("relay/0") < 4


def test_another_seed_from_a_turn_on(source: RunSource, tmp_path: Path) -> None:
    """Goal: entropy can change in the middle, and the journal says so. Method: relay's children go elsewhere."""
    cut = order_of(source)[-6][0]  # the last relay has yet to send its children
    came = forked(source, tmp_path / "fork", cut, Change(seed=bytes(range(32))))
    assert came.first is not None
    assert came.position == len(order_of(source)) - 5
    with open_run(tmp_path / "fork") as made:
        assert input_numbers(made, "SeedSet")
        with Executors(made.folders(), device="cpu") as executors:
            assert verify(made, executors, VerifyOptions()).equal


def test_a_deploy_takes_effect_from_its_turn_on(source: RunSource, tmp_path: Path) -> None:
    """Goal: other code from a turn on. Method: bind counter to echo in the middle of its tasks."""
    order = order_of(source)
    module = bytes_of("echo")
    code = Code(digest(module), "agent")
    came = forked(
        source,
        tmp_path / "fork",
        order[2][0],
        Change(deploys=(("counter", code),)),
        [NewCode("counter", code, {code.digest: lambda: module})],
    )
    assert came.first is not None
    assert came.first.before is not None
    assert came.first.before.address.startswith("counter/")
    assert "code digest" in came.first.fields


def test_what_cannot_be_changed_is_refused(source: RunSource, tmp_path: Path) -> None:
    """Goal: typed refusals that leave nothing. Method: wrong records, indices, modules, folders."""
    number = input_numbers(source, "Submitted")[0]
    for change, what in (
        (Change(dropped=(2,)), "record 2 is no input"),
        (Change(edited=((number, 4, b""),)), "has 4 payloads"),
        (Change(edited=((input_numbers(source, "Deployed")[0], 0, b""),)), "has 0 payloads"),
    ):
        with pytest.raises(BadChange, match=what):
            forked(source, tmp_path / "fork", 0, change)
    broken = Code(digest(b"\0asm"), "agent")
    new = NewCode("relay", broken, {broken.digest: lambda: b"\0asm"})
    with pytest.raises(CodeError):
        forked(source, tmp_path / "fork", 0, Change(deploys=(("relay", broken),)), [new])
    assert not list(tmp_path.iterdir())
    (tmp_path / "fork" / "something").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is there already"):
        forked(source, tmp_path / "fork", 0, Change())


def test_a_cancel_never_catches_another_task(tmp_path: Path) -> None:
    """Goal: a decision finds the task that it meant, or none. Method: drop a submit before the task that was cancelled,
    so that its turn is another agent's.
    """
    with local.open_lane(keep=tmp_path / "run") as lane:
        lane.deploy("counter", AGENTS / "counter.wasm")
        lane.pause()
        for key in "abc":
            lane.submit(f"counter/{key}", b"")
        lane.cancel(2)
        lane.release()
        lane.run()
    with open_run(tmp_path / "run") as source:
        came = forked(source, tmp_path / "fork", 0, Change(dropped=(input_numbers(source, "Submitted")[0],)))
    assert [(left.what, "was for counter/b, here it is for counter/c" in left.why) for left in came.left_out] == [
        ("Cancelled", True)
    ]


def test_a_recorded_lane_goes_on_in_its_order(tmp_path: Path) -> None:
    """Goal: the order of completions is recorded, and comes again. Method: let tasks complete backwards; go on from
    each turn with no change, and with the same code.
    """
    run = recorded_run(tmp_path / "run")
    with open_run(run) as source, Executors(source.folders(), device="cpu") as executors:
        order = order_of(source)
        assert [turn for turn, _ in order] == [4, 3, 2, 1]
        assert verify(source, executors, VerifyOptions()).equal
        for turn in (0, 4, 3, 2, 1):
            came = follow_change(source, ChangePlan("main", turn, Change()), executors)
            assert (came.same, came.digest) == (True, order[-1][1]), turn
        assert check_upgrade(source, "counter", bytes_of("counter"), device="cpu")[0].same


def recorded_run(folder: Path) -> Path:
    """A recorded lane whose four tasks completed in the opposite order."""
    found: list[records.Record] = [records.Epoch(1, 0, ())]
    nobody = records.Origin("", 0, ZERO_DIGEST)
    code = Code(digest(bytes_of("counter")), "agent")
    modules = RunFolder(folder).prepare().modules
    (modules / f"{code.digest.hex()}.wasm").write_bytes(bytes_of("counter"))
    folders = Folders(modules=modules, artefacts=folder / "code", models=folder / "models", tensors=folder / "tensors")
    with Executors(folders, device="cpu") as executors:
        engine = Engine(World(), executors, found.append)
        settings = LaneSettings(policy="recorded", seed=bytes(32))
        engine.apply(records.Opened("main", 0, nobody, settings, False, (("counter", code),)))
        targets = ("counter/a", "counter/b", "counter/c", "counter/d")
        batch = (TaskRun.of(targets, 0, (b"",) * 4, None),)
        engine.apply(records.Submitted("main", 0, 0, nobody, 1, batch, None))
        lane = engine.world.lanes["main"]
        for task in reversed(lane.line()):
            engine.execute([fold_of(lane, (task,))])
    return write_run(folder, found)


# --- runs whose first records were cut --------------------------------------------------------------------------------


def cut_copies(run: Path, folder: Path) -> Iterator[tuple[int, Path]]:
    """Copies of the run in which a record and all before it are replaced by a snapshot."""
    with closing(Journal.open(RunFolder(run).journal, read_only=True)) as journal:
        found = list(journal.read())
    for number in range(1, len(found), 3):
        copy = write_run(folder / str(number), found, cut_after=number)
        shutil.copytree(RunFolder(run).modules, RunFolder(copy).modules, dirs_exist_ok=True)
        yield number, copy


def test_a_cut_run_goes_on_from_its_snapshot(run: Path, source: RunSource, tmp_path: Path) -> None:
    """Goal: verify, seek and fork need no more than what is kept. Method: cut at every third record."""
    order = order_of(source)
    with Executors(source.folders(), device="cpu") as executors:  # the modules of all copies are the same
        for number, copy in cut_copies(run, tmp_path):
            with open_run(copy) as cut:
                kept = order_of(cut)
                assert kept == order[len(order) - len(kept) :]
                report = verify(cut, executors, VerifyOptions())
                assert report.equal, number
                assert [lane.digest for lane in report.lanes] == [order[-1][1]] * len(report.lanes)
                came = follow_change(cut, ChangePlan("main", 0, Change()), executors)
                assert (came.same, came.digest) == (True, order[-1][1]), number
                if len(kept) > 2 and number % 2 == 0:
                    turn, digest_there = kept[len(kept) // 2]
                    came = forked(cut, tmp_path / f"fork-{number}", turn, Change())
                    assert came.same
                    assert came.shared_digest == digest_there or came.position == len(order) - len(kept) // 2 + 1
                    with open_run(tmp_path / f"fork-{number}") as made:
                        assert order_of(made)[-1] == order[-1]
                        assert verify(made, executors, VerifyOptions()).equal


# --- upgrade proof ----------------------------------------------------------------------------------------------------


def with_note(module: bytes) -> bytes:
    """The same code under another digest: a custom section at the end."""
    return module + b"\x00\x05\x04note"


def test_code_that_does_the_same_is_accepted(source: RunSource) -> None:
    """Goal: only what a turn does counts. Method: a module with another digest and the same instructions."""
    (came,) = check_upgrade(source, "counter", with_note(bytes_of("counter")), device="cpu")
    assert came.same
    assert came.ran_new_code == 7
    assert came.digest != came.was_digest, "the lane digest has the code in it"
    (unused,) = check_upgrade(source, "counter", with_note(bytes_of("counter")), turn=order_of(source)[-1][0])
    assert (unused.same, unused.ran_new_code) == (True, 0), "no turn ran it"


def test_only_turns_of_the_upgraded_name_count(source: RunSource) -> None:
    """Goal: a name that was never called has proved nothing. Method: code for it that other names of the run ran."""
    (unused,) = check_upgrade(source, "asker", bytes_of("counter"), turn=order_of(source)[-1][0])
    assert (unused.same, unused.ran_new_code) == (True, 0)
    (again,) = check_upgrade(source, "counter", bytes_of("counter"))
    assert (again.same, again.ran_new_code) == (True, 7)
    with open_run(never_called(source)) as run:
        (never,) = check_upgrade(run, "spare", bytes_of("counter"))
    assert (never.same, never.ran_new_code) == (True, 0), "its module ran, under another name"


def never_called(source: RunSource) -> Path:
    """A run with two names for one module, of which one is called."""
    folder = source.journal_path.parent / "never-called"
    with local.open_lane(keep=folder) as lane:
        lane.deploy("counter", AGENTS / "counter.wasm")
        lane.deploy("spare", AGENTS / "counter.wasm")
        lane.submit_many("counter/x", [b""] * 7)
        lane.run()
    return folder


def test_code_that_does_something_else_is_not(source: RunSource) -> None:
    """Goal: the first turn that changes is named, and how many follow. Method: echo in place of counter."""
    (came,) = check_upgrade(source, "counter", bytes_of("echo"), device="cpu")
    assert came.first is not None
    expected = [
        task for step in Walk(source).steps() for task in step.retired("main") if task.address.startswith("counter/")
    ]
    assert came.first.before is not None
    assert came.first.before.turn == expected[0].turn
    assert {"result", "state digest"} <= {*came.first.fields}
    assert came.changed >= len(expected) - 1


def test_an_upgrade_needs_a_name_and_a_module(source: RunSource) -> None:
    """Goal: typed refusals. Method: a name that was never bound, a module that is none."""
    with pytest.raises(BadChange, match=r"'ghost' was never bound there \(bound: asker, counter, relay, reminder\)"):
        check_upgrade(source, "ghost", bytes_of("echo"))
    with pytest.raises(CodeError):
        check_upgrade(source, "counter", b"not wasm")


# --- bisect -----------------------------------------------------------------------------------------------------------


def first_turn(source: RunSource, executors: Executors, expression: str) -> int | None:
    found = find_first(source, "main", Predicate(expression), executors)
    return None if found.task is None else found.task.turn


def test_bisect_finds_the_first_turn(source: RunSource, executors: Executors) -> None:
    """Goal: exactly the first turn, inside folds too. Method: states and results against the fold of the journal."""
    tasks = [task for step in Walk(source).steps() for task in step.retired("main")]
    counted = [task.turn for task in tasks if task.address == "counter/x"]
    for place, turn in enumerate(counted, start=1):
        assert first_turn(source, executors, f'number(result) == {place} and target == "counter/x"') == turn
    failed = next(task.turn for task in tasks if type(task.outcome).__name__ == "Failed")
    assert first_turn(source, executors, 'failure == "error"') == failed
    fired = next(task.turn for task in tasks if task.run.kind == "timer")
    assert first_turn(source, executors, 'unpack(state("reminder/r")) == "0 1 wake"') == fired
    assert first_turn(source, executors, "retired > 1000") is None


def test_a_question_that_is_none_is_refused(source: RunSource, executors: Executors) -> None:
    """Goal: a wrong question is not an answer. Method: no expression, no such name, never a value."""
    with pytest.raises(BadChange, match="no Python expression"):
        Predicate("1 +")
    for expression, what in (("stat('a')", "name 'stat' is not defined"), ("state('ghost') > b''", "never came to")):
        with pytest.raises(BadChange, match=what):
            first_turn(source, executors, expression)
