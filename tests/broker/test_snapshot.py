"""Snapshots: at every record of random runs, a world that was written and read again is the same world.

A journal is folded twice: into one world directly, into the other through a snapshot at every record. A snapshot has
the whole state, so equal bytes at every record are the strongest equality; `picture` is compared too, in case something
is missing in the bytes.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from chaos import Chaos, deploy_all
from core_kit import Broker, fold_journal, inputs_of, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import MODEL_CODE, code, program

from rota.broker import records, snapshot
from rota.broker.snapshot_rows import RowTag
from rota.broker.world import World
from rota.common.errors import JournalError, NumberReused
from rota.common.messages import Completed, TaskRun
from rota.common.work import Done, FoldResult, Provenance, TensorRef

SEEDS = (*range(12), 17, 31, 50)  # the last three end calls that have messages in the line


def chaotic(seed: int, actions: int = 110, **world_settings: int) -> list[bytes]:
    """The journal of a random run with a derived and a recorded lane, restarts, verdicts, timers and pauses."""
    broker = Broker(**world_settings)
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.producer.open_lane("l", deploys_from="main", policy="recorded", window=9)
    chaos.lanes = ["main", "l"]
    chaos.run(actions)
    if seed % 2:
        chaos.settle()
    broker.check()
    return [*broker.journal, *broker.unwritten]


def packed(world: World) -> bytes:
    return b"".join(snapshot.encode(snapshot.take(world)))


def through(world: World) -> World:
    """Write a world into a snapshot and read it again; its invariants hold."""
    again = snapshot.clone(world)
    again.check_invariants()
    return again


@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_that_is_written_and_read_at_every_record_stays_the_same(seed: int) -> None:
    """Goal: recovery from a snapshot at any record gives what a full fold gives, there and ever after. Method: twins,
    one of which goes through bytes at every record of a random run; bytes and pictures are equal at each.
    """
    kept = {"results_max": 25} if seed % 3 == 0 else {}
    whole, again = World(**kept), World(**kept)
    for body in chaotic(seed, **kept):
        record = records.decode(body)
        whole.apply(record)
        again.apply(record)
        again = through(again)
        assert packed(again) == packed(whole)
        assert picture(again) == picture(whole)


@pytest.mark.parametrize("seed", [20, 21])
def test_a_tail_on_a_snapshot_is_the_whole_journal(seed: int) -> None:
    """Goal: the same with a world that went through bytes once. Method: snapshots at many records of one run, each
    followed by the whole rest.
    """
    journal = chaotic(seed)
    whole = picture(fold_journal(journal))
    for cut in range(0, len(journal), 7):
        world = through(fold_journal(journal[:cut]))
        for body in journal[cut:]:
            world.apply(records.decode(body))
        assert picture(world) == whole


def test_the_runs_are_rich() -> None:
    """Goal: the property above has met everything that a snapshot holds. Method: count items and odd states over the
    worlds of its seeds.
    """
    met: dict[str, int] = {}

    def meet(what: str, count: int) -> None:
        met[what] = met.get(what, 0) + count

    for seed in SEEDS:
        world = World()
        for body in chaotic(seed):
            world.apply(records.decode(body))
            for item in _items(packed(world)):
                meet(RowTag(item[0]).name, 1)
            for lane in world.lanes.values():
                line = lane.line()
                meet("paused", lane.paused)
                meet("passes", len(lane.image().passes))
                meet("caught while waiting", sum(bool(run.verdicts) for run in lane.waiting_runs()))
                meet("completed ahead", sum(task.outcome is not None for task in line))
                meet("behind another", sum(task.before is not None for task in line))
                meet("told to end", sum(task.ends is not None for task in line))
                meet("may settle", sum(bool(agent.open) for agent in lane.agents.values()))
                calls = [agent.call for agent in lane.agents.values() if agent.call is not None]
                meet("call with steps", sum(bool(call.steps) for call in calls))
                meet("call with timers", sum(bool(call.timers) for call in calls))
                meet("call that asks", sum(bool(call.asked) for call in calls))
                meet("call about to end", sum(call.end is not None for call in calls))
                meet("call that has ended", len(lane.ended))
                meet("handed on", sum(ask.owes != ask.turn for ask in lane.open.values()))
                caught = [a.newest for a in lane.agents.values() if a.newest is not None and a.newest.outcome]
                meet("newest was caught", len(caught))
                meet("newest is gone", sum(task.turn not in lane.line_by_turn for task in caught))
    wanted = {tag.name for tag in RowTag}
    wanted |= {"paused", "passes", "caught while waiting", "completed ahead", "behind another", "newest was caught"}
    wanted |= {"told to end", "may settle", "handed on", "call with steps", "call with timers", "call that asks"}
    wanted |= {"call about to end", "call that has ended"}
    assert {what for what in wanted if not met.get(what)} == set()
    assert met["newest is gone"] > 0


def _items(body: bytes) -> list[list[Any]]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(body)
    return [msgpack.unpackb(item) for item in unpacker]


# --- what chance does not meet ------------------------------------------------------------------------------------

REF = TensorRef(bytes(range(32)), "float32", (2, 3))


def test_tensors_provenance_and_divergences_are_kept(make_broker: Any) -> None:
    """Goal: what only models and odd workers bring is in a snapshot too. Method: waiting, issued and finished tasks
    with tensors, an outcome with provenance, a divergence; compare what a world knows of them.
    """
    broker = make_broker()
    alice, worker = broker.producer(), broker.worker("g", pool="gpu")
    alice.deploy("model:m", MODEL_CODE)
    alice.submit_runs(TaskRun.of("model:m", 0, (b"a", b"b"), ((REF,), ())), TaskRun.of("model:m", -1, (b"c",), None))
    provenance = Provenance("bitwise", "cpu", bytes(32), "A", "no driver")
    done = Done(b"x", None, (), ("line",), 3, (REF,))
    while worker.orders:
        order = worker.orders.popleft()
        folds = [FoldResult((done,) * len(inputs_of(fold)), None, None, "", provenance) for fold in order.folds]
        worker.say(Completed("g", order.assignment, tuple(folds), 5))
    world = fold_journal(broker.journal)
    world.apply(records.Diverged("main", 1, "model:m", bytes(32), bytes(32), "w"))
    again = through(world)
    assert packed(again) == packed(world)
    assert picture(again) == picture(world)
    assert again.divergences == 1
    assert again.tensors_in_use() == world.tensors_in_use() == {REF.digest: None}
    assert [task.provenance for task in again.results.kept()] == [provenance] * 3


def test_old_answers_are_kept(make_broker: Any) -> None:
    """Goal: a request that is sent again after a start from a snapshot gets its old answer, not a second effect.
    Method: requests with both kinds of answer; the producers' memory of both worlds.
    """
    broker = make_broker()
    alice = broker.producer()
    alice.deploy("counter")
    alice.submit("counter/a")
    alice.cancel(1)
    alice.drop_dead()
    world, again = broker.core.world, through(broker.core.world)
    assert again.producers.image() == world.producers.image()
    assert len(world.producers.image()[0][2]) == 4
    origins = [record.origin for kind in (records.Submitted, records.Cancelled) for record in broker.recorded(kind)]
    assert [again.producers.old_answer(one) for one in origins] == [world.producers.old_answer(one) for one in origins]
    with pytest.raises(NumberReused):
        again.producers.old_answer(origins[0]._replace(request=bytes(32)))


def test_large_worlds_come_in_parts_of_one_size(make_broker: Any) -> None:
    """Goal: a snapshot is written in bounded pieces, whatever is in it. Method: a state and payloads that are larger
    than a part; part sizes, and the world that comes of them.
    """
    broker = make_broker()
    alice = broker.producer()
    alice.deploy("counter", code("counter", growth_bytes=4 * snapshot.PART_BYTES))
    broker.worker()
    alice.submit("counter/a", program(["add", 1], ["grow", 3 * snapshot.PART_BYTES]))
    broker.run()
    alice.submit("counter/b", *[b"x" * 700_000] * 9)
    world = broker.core.world
    parts = list(snapshot.encode(snapshot.take(world)))
    assert {len(part) for part in parts[:-1]} == {snapshot.PART_BYTES}
    assert 0 < len(parts[-1]) <= snapshot.PART_BYTES
    assert len(parts) >= 9
    assert picture(snapshot.load(parts)) == picture(world)


def test_a_picture_does_not_change_with_its_world() -> None:
    """Goal: the bytes may be made while the broker goes on. Method: take, go on to the end of the run, then encode."""
    journal = chaotic(3)
    for cut in range(5, len(journal), 11):
        world = fold_journal(journal[:cut])
        expected, taken = packed(world), snapshot.take(world)
        for body in journal[cut:]:
            world.apply(records.decode(body))
        assert b"".join(snapshot.encode(taken)) == expected


def test_fewer_results_are_kept_where_fewer_are_wanted() -> None:
    """Goal: the bounds of the broker that loads hold, as they do in a full fold. Method: load with a lower bound."""
    journal = chaotic(1)
    whole = fold_journal(journal)
    assert len(whole.results) > 5
    again = snapshot.load(snapshot.encode(snapshot.take(whole)), results_max=3)
    assert picture(again) == picture(fold_journal(journal, results_max=3))


# --- what is no snapshot ------------------------------------------------------------------------------------------


def rich_world() -> World:
    """The first world of a random run whose snapshot has items of every kind."""
    for seed in range(1, 20):
        world = World()
        for body in chaotic(seed):
            world.apply(records.decode(body))
            if {item[0] for item in _items(packed(world))} == set(RowTag):
                return world
    raise AssertionError("no world has items of every kind")


ITEMS = _items(packed(rich_world()))
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=9)


def load_or_refuse(items: list[Any]) -> World | None:
    try:
        return snapshot.load([msgpack.packb(msgpack.packb(item)) for item in items])
    except JournalError:
        return None


def test_the_sample_loads() -> None:
    """Goal: the tests below begin with a snapshot. Method: load it."""
    assert load_or_refuse(ITEMS) is not None
    assert {item[0] for item in ITEMS} == set(RowTag)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_load_or_raise(body: bytes) -> None:
    """Goal: bytes are a snapshot or a JournalError. Method: random bytes."""
    with pytest.raises(JournalError):
        snapshot.load([body])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_item_loads_or_raises(data: st.DataObject) -> None:
    """Goal: whatever stands in a field, nothing but JournalError is raised, and a world that loads is consistent.
    Method: replace a field at any depth of any item.
    """
    items = msgpack.unpackb(msgpack.packb(ITEMS))
    target = items[data.draw(st.integers(0, len(items) - 1))]
    while True:
        index = data.draw(st.integers(0, len(target) - 1))
        if not isinstance(target[index], list) or not target[index] or data.draw(st.booleans()):
            target[index] = data.draw(PLAIN | st.lists(PLAIN, max_size=3))
            break
        target = target[index]
    world = load_or_refuse(items)
    if world is not None:
        world.check_invariants()


@pytest.mark.parametrize("place", range(len(ITEMS)))
def test_a_missing_doubled_or_moved_item_is_refused(place: int) -> None:
    """Goal: a snapshot is whole or refused, even with a digest that fits. Method: leave out, repeat, move an item."""
    assert load_or_refuse(ITEMS[:place] + ITEMS[place + 1 :]) is None
    assert load_or_refuse([*ITEMS[: place + 1], *ITEMS[place:]]) is None
    if place < len(ITEMS) - 1:
        assert load_or_refuse([*ITEMS[:place], *ITEMS[place + 1 :], ITEMS[place]]) is None


def test_what_follows_the_end_is_refused() -> None:
    """Goal: not a byte is left over. Method: append half an item to a snapshot."""
    with pytest.raises(JournalError, match="bytes follow the last item"):
        snapshot.load([*[msgpack.packb(msgpack.packb(item)) for item in ITEMS], b"\xc4"])
