"""Real runs for the tests of the divergence report, and ways to forge them.

A `Broker` of core_kit.py drives a run whose workers execute real modules, each with its own engine. The result is a run
folder whose records a test changes: `forge` recomputes the chain of digests, `flip` does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import core_kit
import msgpack
from core_kit import Broker
from run_kit import records_of, write_run
from wasmtime import wat2wasm

from rota.broker import records
from rota.broker.journal import Journal, link
from rota.common.columns import Blobs
from rota.common.digests import ZERO_DIGEST, digest
from rota.common.messages import Assign, Completed
from rota.common.work import AGENT, Code, Limits
from rota.engine.executors import Executors, Folders
from rota.host.endpoints import RunFolder
from rota.proof.divergence import Divergence, Note, explain, other_engines
from rota.proof.verify import RunReport, VerifyOptions, verify
from rota.runs.open import open_run

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"

_HEAD = """(module (memory (export "memory") 2)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func $pack (param $pointer i32) (param $size i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $pointer)) (i64.const 32)) (i64.extend_i32_u (local.get $size))))"""

# Its output is its task's payload (bin 8 or bin 16), for tasks of kind tell without sender, with a state of less than
# 256 bytes, if any: see `output`.
MIRROR = f"""{_HEAD}
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (if (i32.eq (i32.load8_u offset=2 (local.get $p)) (i32.const 0xc4))
      (then (local.set $p (i32.add (i32.add (local.get $p) (i32.const 1)) (i32.load8_u offset=3 (local.get $p))))))
    (if (i32.eq (i32.load8_u offset=9 (local.get $p)) (i32.const 0xc4))
      (then (return (call $pack (i32.add (local.get $p) (i32.const 11)) (i32.load8_u offset=10 (local.get $p))))))
    (call $pack (i32.add (local.get $p) (i32.const 12))
      (i32.or (i32.shl (i32.load8_u offset=10 (local.get $p)) (i32.const 8))
        (i32.load8_u offset=11 (local.get $p))))))"""

# Its result is one byte: how many tasks this instance has had, which no agent may depend on.
FORGETFUL = f"""{_HEAD}
  (data (i32.const 0) "\\94\\01\\00\\c0\\c4\\01\\00")
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (i32.store8 (i32.const 6) (i32.add (i32.load8_u (i32.const 6)) (i32.const 1)))
    (call $pack (i32.const 0) (i32.const 7))))"""

# Its first task in an instance takes some 900 more units of fuel if its message is long.
LAZY = f"""{_HEAD}
  (data (i32.const 0) "\\94\\01\\00\\c0\\c0") (global $rounds (mut i32) (i32.const 100))
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (if (i32.gt_u (local.get $n) (i32.const 200)) (then
      (loop $again (br_if $again (global.get $rounds) (global.set $rounds
        (i32.sub (global.get $rounds) (i32.ne (global.get $rounds) (i32.const 0)))))))
      )
    (global.set $rounds (i32.const 0))
    (call $pack (i32.const 0) (i32.const 5))))"""


# The same count as a line of its log.
TALKING = f"""(module (import "rota" "log" (func $log (param i32 i32))) {_HEAD.removeprefix("(module ")}
  (data (i32.const 0) "\\94\\01\\00\\c0\\c0") (data (i32.const 8) "0")
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (call $log (i32.const 8) (i32.const 1))
    (i32.store8 (i32.const 8) (i32.add (i32.load8_u (i32.const 8)) (i32.const 1)))
    (call $pack (i32.const 0) (i32.const 5))))"""


def module(name: str) -> bytes:
    """The bytes of a module: one of the examples, or of those above."""
    texts = {"mirror": MIRROR, "forgetful": FORGETFUL, "lazy": LAZY, "talking": TALKING}
    return bytes(wat2wasm(texts[name])) if name in texts else (AGENTS / f"{name}.wasm").read_bytes()


def code(name: str, *, reuse: bool = False, **limits: int) -> Code:
    return Code(digest(module(name)), AGENT, reuse, limits=Limits(**limits))


def output(result: bytes, *, state: bytes | None = None, log: tuple[str, ...] = ()) -> bytes:
    """A payload with which `mirror` gives this outcome."""
    packed: bytes = msgpack.packb([1, 0, state, result, [], list(log), []])
    return packed


class RealWorker(core_kit.SimWorker):
    """A worker that executes modules, or models."""

    def __init__(self, broker: Broker, name: str, executors: Executors, pool: str) -> None:
        super().__init__(broker, name, pool=pool)
        self.executors = executors
        self.settings = self.settings._replace(fingerprint=dict(executors.fingerprint(pool)))

    def compute(self, order: Assign) -> Completed:
        results = tuple([self.executors.run(fold) for fold in core_kit.folds_of(order)])
        self.broker.now_ms += 1
        return Completed(self.name, order.assignment, results, 1_000)


class Bench:
    """A folder for one run: workers while it is made, then its file."""

    def __init__(self, folder: Path, artefacts: Path) -> None:
        self.folder = RunFolder(folder / "run").prepare()
        self.path = folder / "run"
        self.broker = Broker()
        self.producer = self.broker.producer()
        self._artefacts = artefacts
        self._executors: list[Executors] = []

    def executors(self) -> Executors:
        """Executors over the folder, as a worker has them."""
        folders = Folders(
            modules=self.folder.modules, artefacts=self._artefacts, models=self.folder.models,
            tensors=self.folder.tensors,
        )  # fmt: skip
        made = Executors(folders, device="cpu")
        self._executors.append(made)
        return made

    def worker(self, name: str = "w1", pool: str = "cpu") -> RealWorker:
        worker = RealWorker(self.broker, name, self.executors(), pool)
        worker.register()
        return worker

    def deploy(self, name: str, *, reuse: bool = False, lane: str = "main", **limits: int) -> Code:
        """Deploy a module under its own name."""
        found = code(name, reuse=reuse, **limits)
        (self.folder.modules / f"{found.digest.hex()}.wasm").write_bytes(module(name))
        self.producer.deploy(name, found, lane=lane)
        return found

    def submit(self, target: str, *payloads: bytes, run: bool = True, lane: str = "main", **fields: Any) -> None:
        self.producer.submit(target, *(payloads or (b"",)), lane=lane, **fields)
        if run:
            self.broker.run()

    def mark(self, lane: str = "main") -> None:
        """Record the lane's digest, as a broker does periodically."""
        found = self.broker.lane(lane)
        self.broker.journal.append(records.encode(records.Mark(lane, found.retired, found.digest)))

    def save(self, *, cut_after: int = 0) -> None:
        """Write the run file. With `cut_after` so many of the first records are replaced by a snapshot."""
        write_run(self.path, records_of(self.broker), cut_after=cut_after)

    def close(self) -> None:
        for executors in self._executors:
            executors.close()

    # --- what is asked of it --------------------------------------------------------------------------------------

    def records(self) -> list[Any]:
        with closing(Journal.open(self.folder.journal, read_only=True)) as journal:
            return list(journal.read())

    def forge(self, change: Callable[[list[Any]], list[Any]]) -> None:
        """Change the records and recompute the chain."""
        bodies = [records.encode(record) for record in change(self.records())]
        with closing(sqlite3.connect(self.folder.journal)) as connection, connection:
            ((first, chain),) = connection.execute("SELECT number, chain FROM records ORDER BY number LIMIT 1")
            rows = [(first, bodies[0], chain := link(ZERO_DIGEST, bodies[0]) if first == 1 else chain)]
            for number, body in enumerate(bodies[1:], first + 1):
                rows.append((number, body, chain := link(chain, body)))
            connection.execute("DELETE FROM records")
            connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
            connection.execute("UPDATE head SET last = ?, chain = ?", (rows[-1][0], chain))

    def flip(self, number: int, find: bytes, put: bytes) -> None:
        """Change bytes of one record's body, and nothing else."""
        assert len(find) == len(put)
        with closing(sqlite3.connect(self.folder.journal)) as connection, connection:
            ((body,),) = connection.execute("SELECT body FROM records WHERE number = ?", (number,))
            assert body.count(find) == 1, (find, body)
            changed = body.replace(find, put)
            connection.execute("UPDATE records SET body = ? WHERE number = ?", (changed, number))

    def remove(self, number: int) -> None:
        """Take one record out, and change nothing else."""
        with closing(sqlite3.connect(self.folder.journal)) as connection, connection:
            connection.execute("DELETE FROM records WHERE number = ?", (number,))

    def verify(self, options: VerifyOptions | None = None) -> RunReport:
        return self.judge(options)[0]

    def judge(self, options: VerifyOptions | None = None) -> tuple[RunReport, list[Divergence]]:
        """Verify the run and explain what was found."""
        with open_run(self.path) as source, Executors(source.folders(), device="cpu") as runner:
            report = verify(source, runner, options or VerifyOptions())
            return report, explain(source, report, runner, live_models=bool(options and options.live_models))

    def notes(self, report: RunReport) -> list[Note]:
        """The notes for an equal report."""
        with open_run(self.path) as source, Executors(source.folders(), device="cpu") as runner:
            return other_engines(report, runner)


# --- changes ------------------------------------------------------------------------------------------------------


def number_of(found: list[Any], kind: type, place: int = 0) -> int:
    """The index of the n-th record of a kind; negative places count from the end."""
    return [index for index, record in enumerate(found) if isinstance(record, kind)][place]


def with_record(kind: type, place: int, change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """A forgery that changes the n-th record of a kind, or removes it (None)."""

    def forgery(found: list[Any]) -> list[Any]:
        index = number_of(found, kind, place)
        changed = change(found[index])
        return [*found[:index], *([] if changed is None else [changed]), *found[index + 1 :]]

    return forgery


def with_outcome(turn: int, lane: str = "main", **fields: Any) -> Callable[[list[Any]], list[Any]]:
    """A forgery that changes the outcome of a turn: fields of `Done`, or functions of them; `state` of its fold, with
    its digest.
    """

    def forgery(found: list[Any]) -> list[Any]:
        ours = [isinstance(record, records.Completion) and record.lane == lane for record in found]
        return [_changed(one, turn, fields) if is_ours else one for one, is_ours in zip(found, ours, strict=True)]

    return forgery


def _changed(record: records.Completion, turn: int, fields: dict[str, Any]) -> records.Completion:
    folds = []
    for fold in record.folds:
        if turn in fold.turns:
            place = fold.turns.index(turn)
            before = fold.outcomes[place]
            given = {name: value(getattr(before, name)) if callable(value) else value for name, value in fields.items()}
            if "state" in given:
                fold = fold._replace(state=given.pop("state"))
                assert fold.state is not None
                given.setdefault("state_digest", digest(fold.state))
            outcomes = (*fold.outcomes[:place], before._replace(**given), *fold.outcomes[place + 1 :])
            fold = fold._replace(outcomes=tuple(outcomes))
        folds.append(fold)
    return record._replace(folds=tuple(folds))


def exchanged(kind: type, one: int, other: int, keep: tuple[str, ...] = ()) -> Callable[[list[Any]], list[Any]]:
    """A forgery that exchanges two records of a kind; fields in `keep` stay where they are."""

    def forgery(found: list[Any]) -> list[Any]:
        first, second = number_of(found, kind, one), number_of(found, kind, other)
        a, b = found[first], found[second]
        changed = list(found)
        changed[first] = b._replace(**{name: getattr(a, name) for name in keep})
        changed[second] = a._replace(**{name: getattr(b, name) for name in keep})
        return changed

    return forgery


def submitted(place: int, payload: bytes) -> Callable[[list[Any]], list[Any]]:
    """A forgery that changes the payload of a submit of one task."""

    def change(record: Any) -> Any:
        run = record.runs[0]
        return record._replace(runs=(run._replace(payloads=Blobs.of((payload,))),))

    return with_record(records.Submitted, place, change)


def unsigned(kind: type) -> Callable[[list[Any]], list[Any]]:
    """A forgery that takes the requests from all records of a kind."""

    def forgery(found: list[Any]) -> list[Any]:
        return [record._replace(origin=records.NOBODY) if isinstance(record, kind) else record for record in found]

    return forgery


def other_profile(record: records.Fingerprint) -> records.Fingerprint:
    facts = [(name, "abi 0, wasmtime 1" if name == "profile" else value) for name, value in record.facts]
    return record._replace(facts=tuple(facts))


# --- the runs -----------------------------------------------------------------------------------------------------


def counting(bench: Bench) -> None:
    """Turns 1 to 5: messages for counter/a, each a submit of its own; the third only reads."""
    bench.worker()
    bench.deploy("counter")
    for place in range(5):
        bench.submit("counter/a", b"get" if place == 2 else b"add")


def relaying(bench: Bench) -> None:
    """Two trees of messages with a hash over all that an agent saw, in lane `side`; `main` has tasks before it."""
    bench.worker()
    bench.deploy("counter")
    bench.submit("counter/a", b"add", b"add", b"add")
    bench.producer.open_lane("side", seed=bytes(range(32)))
    bench.deploy("relay", lane="side")
    bench.submit("relay/0", b"2 2 3", lane="side")
    bench.submit("relay/1", b"1 3 3", lane="side")


def mirroring(bench: Bench) -> None:
    """Turns 1 to 4: mirror/m does what the message says."""
    bench.worker()
    bench.deploy("mirror")
    for place in range(4):
        bench.submit("mirror/m", output(b"result %d" % place, state=b"state %d" % place, log=(f"at {place}",)))


def racing(bench: Bench) -> None:
    """A recorded lane: two tasks of different agents complete one after the other, each tells relays of its own."""
    first, second = bench.worker("w1"), bench.worker("w2")
    bench.producer.open_lane("race", policy="recorded")
    bench.deploy("relay", lane="race")
    bench.submit("relay/0", b"1 1 1", lane="race", run=False)
    bench.submit("relay/1", b"1 2 1", lane="race", run=False)
    second.finish()
    first.finish()
    bench.broker.run()


# --- judging ------------------------------------------------------------------------------------------------------


def judged(bench: Bench, run: Callable[[Bench], None], *forgeries: Callable[[list[Any]], list[Any]]) -> Divergence:
    """Make a run, change it, and return the only divergence that is found."""
    run(bench)
    bench.save()
    for forgery in forgeries:
        bench.forge(forgery)
    report, found = bench.judge()
    assert not report.equal
    assert len(found) == 1, [(one.lane, one.turn, one.cause, one.why) for one in found]
    return found[0]


def told(found: Divergence) -> tuple[Any, ...]:
    return (found.lane, found.turn, found.cause)
