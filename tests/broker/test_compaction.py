"""Compaction of a run folder: what is removed, what stays, and that a crash at any step leaves a valid file.

Run folders with the records of a random run, modules and tensors; no process is started.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted
from chaos import Chaos, deploy_all
from core_kit import Broker, fold_journal, picture
from run_kit import program, records_of, write_run

from rota.broker import records
from rota.broker.compaction import Place, Report, Wishes, compact
from rota.broker.journal import Journal, link
from rota.broker.lock import FolderLock
from rota.broker.recovery import fold, load_world, recover
from rota.broker.snapshot import encode, take
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.digests import digest
from rota.common.errors import ConfigError, ConversationError, JournalError, LocalError
from rota.common.messages import TaskRun
from rota.common.text_calls import ChatMessage, GenerateCall, encode_text_call
from rota.common.work import Code, Done
from rota.conversations.store import ConversationStore
from rota.host.clock import HostClock
from rota.host.endpoints import RunFolder
from rota.tensors.store import TensorStore

DAY_MS = 24 * 3600 * 1000


def run_of(seed: int) -> list[records.Record]:
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.run(200)
    chaos.settle()
    return [records.decode(body) for body in broker.journal]


RUN = run_of(11)
WHOLE = picture(fold_journal([records.encode(record) for record in RUN]))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with the run in it."""
    made = RunFolder(tmp_path / "run").prepare()
    with closing(Journal.open(made.journal)) as journal:
        assert list(journal.read()) == []
        for start in range(0, len(RUN), 5):
            journal.append(RUN[start : start + 5])
    return made


def compacted(folder: RunFolder, wishes: Wishes | None = None, **settings: Any) -> Report:
    return compact(folder, wishes or Wishes(), **{"pins": {}, "lease_ms": 0, "clock": HostClock(), **settings})


def state(folder: RunFolder) -> dict[str, Any]:
    with closing(Journal.open(folder.journal, read_only=True)) as journal:
        world = recover(journal)
        again = load_world(journal)
        fold(again, journal.read(), after=journal.first_number() - 1)
        assert picture(again) == picture(world)
        return picture(world)


def chains() -> list[bytes]:
    found = [bytes(32)]
    for record in RUN:
        found.append(link(found[-1], records.encode(record)))
    return found


# --- the cut ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 50, 100])
def test_old_records_go_and_nothing_else_changes(keep: int, folder: RunFolder) -> None:
    """Goal: exactly the newest records stay, the state and the chain are what they were. Method: keep so many; fold
    what is left, from the snapshot and from the newest; compare the chain with that of the whole run.
    """
    report = compacted(folder, Wishes(records=keep))
    assert report[:4] == (len(RUN) - keep + 1, len(RUN) + 1, 1, len(RUN) - keep)
    assert state(folder) == WHOLE
    with closing(Journal.open(folder.journal, read_only=True)) as journal:
        kept = list(journal.read())
        assert (report.first, report.last) == (journal.first_number(), journal.last_number)
        assert kept[:-1] == RUN[len(RUN) - keep :]
        assert journal.first_number() == len(RUN) - keep + 1
        named = kept[-1]
        assert isinstance(named, records.Snapshotted)
        assert named[:2] == (len(RUN) - keep, chains()[len(RUN) - keep])
        assert journal.chain == link(chains()[-1], records.encode(named))
        assert SnapshotStore(journal).numbers() == [len(RUN) - keep]


def test_compaction_can_be_done_again_and_again(folder: RunFolder) -> None:
    """Goal: a compacted run goes on and is compacted later. Method: cut, append, cut; the state is that of one run."""
    compacted(folder, Wishes(records=120))
    with closing(Journal.open(folder.journal)) as journal:
        world = recover(journal)
        more = [records.Epoch(world.boot + 1, 5, (("rota", "test"),))]
        fold(world, more)
        journal.append(more)
    report = compacted(folder, Wishes(records=3))
    assert report[:4] == (len(RUN), len(RUN) + 3, len(RUN) - 119, len(RUN) - 1)
    assert state(folder) == picture(world)
    assert compacted(folder, Wishes(records=100)).cut_last == 0


def test_the_file_becomes_smaller(folder: RunFolder) -> None:
    """Goal: what is cut is given back to the disk. Method: a run of large records; file size before and after."""
    with closing(Journal.open(folder.journal)) as journal:
        boot = recover(journal).boot
        journal.append([records.Epoch(boot + 1 + number, 0, (("f", "x" * 50_000),)) for number in range(40)])
    report = compacted(folder, Wishes(records=2))
    assert report.file_bytes_after < report.file_bytes_before - 1_500_000
    assert folder.journal.stat().st_size == report.file_bytes_after
    assert [file.name for file in folder.root.glob("run.rota*")] == ["run.rota"]


def test_a_short_run_keeps_only_the_snapshot_where_it_begins(folder: RunFolder) -> None:
    """Goal: old snapshots do not keep the file large. Method: three later snapshots of the broker, then a cut before
    all of them; the state is still that of the whole run.
    """
    with closing(Journal.open(folder.journal)) as journal:
        world, store = recover(journal), SnapshotStore(journal)
        for _ in range(3):
            named = store.write(journal.last_number, encode(take(world)), journal.chain)
            world.apply(named)
            journal.append([named])
        assert len(store.numbers()) == 3
    report = compacted(folder, Wishes(records=20))
    with closing(Journal.open(folder.journal, read_only=True)) as journal:
        assert SnapshotStore(journal).numbers() == [report.first - 1]
    assert state(folder) == WHOLE


def test_every_rule_keeps(folder: RunFolder) -> None:
    """Goal: a record goes only if all rules let it go. Method: rules one by one and together; nothing is changed."""

    def cut(**wishes: Any) -> int:
        return compacted(folder, Wishes(**wishes), dry_run=True).cut_last

    sizes = [len(records.encode(record)) for record in RUN]
    by_size = cut(size_bytes=3_000)
    assert sum(sizes[by_size:]) >= 3_000 > sum(sizes[by_size + 1 :])
    assert cut() == 0
    assert cut(records=30) == len(RUN) - 30
    assert cut(records=30, size_bytes=3_000) == min(len(RUN) - 30, by_size)
    assert cut(records=10**9) == cut(size_bytes=10**12) == cut(days=36_500) == 0
    assert cut(days=1) == len(RUN)  # the run's clock is in 1970
    assert cut(days=1, records=7) == len(RUN) - 7


def test_a_dry_run_changes_nothing(folder: RunFolder) -> None:
    """Goal: looking is free. Method: bytes of all files before and after."""
    before = folder.journal.read_bytes()
    report = compacted(folder, Wishes(records=5), pins={"a": Place()}, dry_run=True)
    assert report.pins == {"a": len(RUN)}
    assert folder.journal.read_bytes() == before


# --- pins ---------------------------------------------------------------------------------------------------------


def test_pinned_places_stay(folder: RunFolder) -> None:
    """Goal: a pinned place can be gone back to after every compaction, until it is unpinned. Method: pin a record, a
    turn and the end; cut all; look at what is kept; unpin.
    """
    turn = 20
    pins = {"record": Place(record=90), "turn": Place(lane="main", turn=turn), "end": Place()}
    report = compacted(folder, Wishes(records=0), pins=pins)
    assert report.pins["end"] == len(RUN)
    world = World()
    retired = [[task.turn for task in world.apply(record).retired if task.run.lane == "main"] for record in RUN]
    (number,) = [place for place, turns in enumerate(retired, start=1) if turn in turns]
    assert report.pins["turn"] == number
    assert report.cut_last == min(90, number) - 1
    assert state(folder) == WHOLE
    low, high = sorted(("record", "turn"), key=lambda name: report.pins[name])
    report = compacted(folder, Wishes(records=0), unpins=(low,))
    assert report.cut_last == report.pins[high] - 1
    report = compacted(folder, Wishes(records=0), unpins=(high, "end"))
    assert report.cut_last == report.last - 1
    assert report.pins == {}


@pytest.mark.parametrize("place", [Place(record=10_000), Place(lane="main", turn=10_000), Place(lane="no", turn=1)])
def test_a_place_that_is_not_there_cannot_be_pinned(place: Place, folder: RunFolder) -> None:
    """Goal: a pin never promises what is not there. Method: places beyond the run; nothing is cut or pinned."""
    with pytest.raises(LocalError):
        compacted(folder, Wishes(records=0), pins={"p": place})
    with pytest.raises(LocalError, match="there is no pin 'q'"):
        compacted(folder, Wishes(records=0), unpins=("q",))
    assert compacted(folder, dry_run=True)[:5] == (1, len(RUN), 0, 0, {})


# --- modules and tensors ------------------------------------------------------------------------------------------


def test_modules_and_tensors_that_nobody_names_go(folder: RunFolder) -> None:
    """Goal: what a kept record, a lane or a task names stays, all else goes, leases aside. Method: modules and tensors
    named by the state, by a kept record, by a cut one, and by nobody.
    """
    store = TensorStore(folder.tensors)
    refs = [store.put(np.full(4, number, "float32")) for number in range(4)]
    names = ("bound", "unbound", "of_a_kept_record", "nobody")
    modules = {name: digest(name.encode()) for name in names}
    for code in modules.values():
        (folder.modules / f"{code.hex()}.wasm").write_bytes(b"wasm")
    (folder.modules / "x.draft").write_bytes(b"half")
    (folder.artefacts / "abc.native").write_bytes(b"code")
    origin = records.Origin("", 0, bytes(32))
    with closing(Journal.open(folder.journal)) as journal:
        world = recover(journal)

        def write(record: records.Record) -> None:
            world.apply(record)
            journal.append([record])

        def deploy(name: str, module: str) -> None:
            lane = world.lanes["main"]
            write(records.Deployed("main", lane.retired, 9, origin, name, Code(modules[module], "function")))

        def submit(ref: Any) -> None:
            run = TaskRun.of("f", 0, (b"",), ((ref,),))
            write(records.Submitted("main", world.lanes["main"].retired, 9, origin, world.next_seq, (run,), None))

        deploy("f", "unbound")
        deploy("f", "bound")
        submit(refs[0])  # waits for a worker at the cut
        cut = journal.last_number
        deploy("g", "of_a_kept_record")
        turn = world.lanes["main"].next_turn - 1
        done = Done(b"", None, (), (), 1, (refs[1],))
        fold_done = records.CompletedFold("f", (turn,), (done,), None, None)
        write(records.Completion("main", 9, "w", 1, 1, (fold_done,)))
        submit(refs[2])
        last = journal.last_number

    assert compacted(folder, Wishes(records=last - cut), lease_ms=60_000).tensors_removed == 0
    assert {path.stem for path in folder.modules.iterdir()} == {modules[name].hex() for name in names[::2]}
    assert list(folder.artefacts.iterdir()) == []
    report = compacted(folder)
    assert (report.tensors_removed, report.modules_removed) == (1, 0)
    for ref in refs[:3]:
        store.open(ref)
    assert store.stats().files == 3


def test_the_code_of_a_call_that_goes_on_stays(tmp_path: Path) -> None:
    """Goal: a call runs on the code that it began with, also when nothing else is left of that. Method: a module and a
    bundle, each deployed as a flow, called, bound to something else, and the whole run cut while the calls wait; then
    they end, and their code goes.
    """
    broker = Broker()
    alice = broker.producer()
    flows = {"order": scripted.FLOW, "trip": scripted.SOURCE_FLOW}
    alice.deploy("counter")
    broker.worker()
    for name, code in flows.items():
        alice.deploy(name, code)
        alice.submit(name, program(["await", [["ask", "counter/a", [["postpone"]]]], 1]), kind="ask")
    broker.run()
    for name in flows:
        alice.deploy(name)
    folder = RunFolder(write_run(tmp_path / "run", records_of(broker)))
    module = folder.modules / f"{scripted.FLOW.digest.hex()}.wasm"
    bundle = folder.modules / f"{scripted.SOURCE_FLOW.digest.hex()}.bundle"
    for path in (module, bundle):
        path.write_bytes(b"code")
    report = compacted(folder, Wishes(records=0))
    assert (report.cut_first, report.modules_removed) == (1, 0)
    assert module.exists()
    assert bundle.exists()
    for code in flows.values():
        (use,) = broker.ask("uses", digest=code.digest.hex())
        assert use == {"lane": "main", "names": [], "tasks": 0, "calls": 1}
    for seq in (1, 2):
        alice.cancel(seq)
    assert broker.ask("uses", digest=scripted.FLOW.digest.hex()) == []
    ended = RunFolder(write_run(tmp_path / "ended", records_of(broker)))
    for path in (module, bundle):
        shutil.copy(path, ended.modules)
    assert compacted(ended, Wishes(records=0)).modules_removed == 2


def test_conversations_that_nobody_uses_or_names_go(folder: RunFolder) -> None:
    """Goal: old dialogues go only on request, and never one that the journal names. Method: heads in a cut record, in a
    kept one, in a waiting task behind the cut, in the text of an agent, recently used, and nowhere.
    """
    now_ms = 20_000 * DAY_MS

    class Late:
        def wall_ms(self) -> int:
            return now_ms

        mono_ms = wall_ms

    day = 19_900
    names = ("cut", "dead", "waits", "kept", "noted", "recent", "nowhere")
    with ConversationStore(folder.conversations, today=lambda: day) as store:
        heads = {name: store.append(None, [ChatMessage("user", name)]) for name in names}
        day = 19_995
        heads["recent"] = store.append(heads["recent"], [ChatMessage("user", "more")])
    origin = records.Origin("", 0, bytes(32))
    with closing(Journal.open(folder.journal)) as journal:
        world = recover(journal)

        def submit(target: str, payload: bytes) -> None:
            run = TaskRun.of(target, 0, (payload,))
            record = records.Submitted("main", world.lanes["main"].retired, 9, origin, world.next_seq, (run,), None)
            world.apply(record)
            journal.append([record])

        def call(name: str) -> bytes:
            more = (ChatMessage("user", "x"),)
            return encode_text_call(GenerateCall(messages=more, conversation=heads[name]))

        for seed in (heads["cut"], bytes(32)):  # any 32 bytes that are a head count; the lane has only the second
            record = records.SeedSet("main", world.lanes["main"].retired, 9, origin, seed)
            world.apply(record)
            journal.append([record])
        submit("nobody", call("dead"))  # fails at once, and can be retried
        submit("model:m", call("waits"))
        cut = journal.last_number
        submit("nobody", call("kept"))
        submit("nobody", b"my notes: " + heads["noted"].hex().encode())
        kept = journal.last_number - cut

    def readable() -> list[str]:
        found = []
        with ConversationStore(folder.conversations, today=lambda: 0) as store:
            for name, head in heads.items():
                with suppress(ConversationError):
                    store.history(head)
                    found.append(name)
        return found

    assert compacted(folder, clock=Late()).messages_removed == 0
    assert readable() == [*names]
    assert compacted(folder, clock=Late(), conversation_days=30).messages_removed == 2
    assert readable() == [*names[:-1]]
    assert compacted(folder, Wishes(records=kept), clock=Late(), conversation_days=30).messages_removed == 2
    assert readable() == [*names[1:-1]]
    assert compacted(folder, clock=Late(), conversation_days=5).messages_removed == 0
    assert compacted(folder, clock=Late(), conversation_days=4).messages_removed == 4
    assert readable() == [*names[1:-2]]


# --- refusals and crashes -----------------------------------------------------------------------------------------


def test_a_folder_with_a_broker_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    """Goal: a live journal is not cut. Method: hold the lock that a broker holds; a folder without a run."""
    with FolderLock(folder.root / "broker.lock"), pytest.raises(ConfigError, match="works in"):
        compacted(folder, Wishes(records=0))
    with pytest.raises(ConfigError, match="has no run"):
        compacted(RunFolder(tmp_path / "nothing"))


def test_a_damaged_record_is_found_before_anything_changes(folder: RunFolder) -> None:
    """Goal: damage is not made final. Method: change a record that would be cut."""
    whole = folder.journal.read_bytes()
    place = whole.index(records.encode(RUN[30]))
    damaged = whole[:place] + b"\x00" + whole[place + 1 :]
    folder.journal.write_bytes(damaged)
    with pytest.raises(JournalError, match="record 31 is damaged"):
        compacted(folder, Wishes(records=0))
    assert folder.journal.read_bytes() == damaged


def test_a_kill_at_any_step_leaves_a_good_file(folder: RunFolder, tmp_path: Path) -> None:
    """Goal: after a kill it can be run again. Method: an image of the folder's run file at every step; each recovers to
    the same state, and compacting it brings it to the same end.
    """
    images: list[RunFolder] = []

    def crash(step: str) -> None:
        image = RunFolder(tmp_path / f"image{len(images)}").prepare()
        for file in folder.root.glob("run.rota*"):
            shutil.copy(file, image.root / file.name)
        images.append(image)

    steps = _steps(lambda say: compacted(folder, Wishes(records=40), pins={"a": Place(record=90)}, say=say), crash)
    assert {"writing pins", "writing a snapshot", "naming the snapshot", "cutting", "making the file smaller"} <= steps
    assert len(images) >= 7
    for image in images:
        assert state(image) == WHOLE
        compacted(image, Wishes(records=0), pins={"a": Place(record=90)})
        assert state(image) == WHOLE
        with closing(Journal.open(image.journal, read_only=True)) as journal:
            assert journal.first_number() == 90
            assert SnapshotStore(journal).pins() == {"a": 90}


def _steps(run: Callable[[Callable[[str], None]], Any], crash: Callable[[str], None]) -> set[str]:
    seen: set[str] = set()

    def say(step: str) -> None:
        seen.add(step)
        crash(step)

    run(say)
    return seen
