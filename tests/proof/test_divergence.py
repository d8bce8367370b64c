"""The test table: real runs, each changed in one way, and the exact turn and cause that the report must name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from divergence_kit import Bench, code, exchanged, module, number_of, output, with_outcome, with_record

from rota.broker import records
from rota.common.digests import digest
from rota.common.work import Emit
from rota.proof.divergence import Divergence
from rota.proof.divergence_text import lines
from rota.proof.source import CACHE_VARIABLE
from rota.proof.verify import Options

Forgery = Callable[[list[Any]], list[Any]]


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "artefacts"


@pytest.fixture
def bench(tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv(CACHE_VARIABLE, str(artefacts.parent))
    made = Bench(tmp_path, artefacts)
    yield made
    made.close()


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


Run = Callable[[Bench], None]


def judged(bench: Bench, run: Run, *forgeries: Forgery) -> Divergence:
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


def submitted(place: int, payload: bytes) -> Forgery:
    """A forgery that changes the payload of a submit of one task."""

    def change(record: Any) -> Any:
        run = record.runs[0]
        return record._replace(runs=(run._replace(payloads=(payload,)),))

    return with_record(records.Submitted, place, change)


def unsigned(kind: type) -> Forgery:
    """A forgery that takes the digests of requests from all records of a kind."""

    def forgery(found: list[Any]) -> list[Any]:
        return [
            record._replace(origin=record.origin._replace(request=bytes(32))) if isinstance(record, kind) else record
            for record in found
        ]

    return forgery


def other_profile(record: records.Fingerprint) -> records.Fingerprint:
    facts = [(name, "abi 0, wasmtime 1" if name == "profile" else value) for name, value in record.facts]
    return record._replace(facts=tuple(facts))


# --- equal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [counting, relaying, mirroring])
def test_an_honest_run_has_no_divergence(bench: Bench, run: Run) -> None:
    """Goal: nothing is found where nothing is wrong. Method: run, verify, explain."""
    run(bench)
    bench.save()
    report, found = bench.judge()
    assert report.equal
    assert found == []


# --- corrupt record -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "forgery", "turn", "differs"),
    [
        (counting, with_outcome(4, result=b"7"), 4, "result"),
        (counting, with_outcome(3, result=b"7"), 3, "result"),
        (counting, with_outcome(4, state=b"\x09" + bytes(7)), 4, "state"),
        (mirroring, with_outcome(2, result=b"result 8"), 2, "result"),
        (mirroring, with_outcome(2, emits=(Emit("mirror/x", output(b""), 0, "tell", (), 0),)), 2, "emits"),
    ],
)  # fmt: skip
def test_a_changed_outcome(bench: Bench, run: Run, forgery: Forgery, turn: int, differs: str) -> None:
    """Goal: an outcome that was not computed is found where it stands, whatever follows from it. Method: change a
    result, a state with its digest, or the emits in the journal, and make the chain anew.
    """
    found = judged(bench, run, forgery)
    assert told(found) == ("main", turn, "corrupt record")
    assert differs in found.differs
    assert found.command.endswith(f"--lane main --from {turn} --to {turn}")


def test_a_run_whose_first_records_were_cut(bench: Bench) -> None:
    """Goal: what is kept is held against itself, and the numbers are those of the whole run. Method: cut after the
    second turn, change the fourth; then damage the first record that is kept.
    """
    counting(bench)
    number = number_of([records.decode(body) for body in bench.broker.journal], records.Completed, 1) + 1
    bench.save(cut_after=number)
    assert bench.verify().equal
    bench.forge(with_outcome(4, result=b"7"))
    _, (found,) = bench.judge()
    assert told(found) == ("main", 4, "corrupt record")
    assert found.record is not None
    assert found.record > number
    assert found.expected is not None
    assert found.expected["result"] == b"7"
    bench.flip(number + 2, b"\xc4\x03get", b"\xc4\x03put")
    _, (found,) = bench.judge()
    assert told(found) == ("main", 3, "corrupt record")
    assert (found.record, found.last_good) == (number + 2, number + 1)


def test_a_changed_emit_in_a_lane_whose_turns_are_not_seqs(bench: Bench) -> None:
    """Goal: the turn is the lane's, the seq the run's, the parents lead to the input. Method: change the payload that a
    child of a tree tells its own children.
    """

    emitted = {"emits": lambda emits: (emits[0], emits[1]._replace(payload=b"0 9 9"))}
    found = judged(bench, relaying, with_outcome(2, "side", **emitted))
    assert told(found) == ("side", 2, "corrupt record")
    assert found.seq == 5
    assert [(parent.turn, parent.target) for parent in found.parents] == [(1, "relay/0")]
    assert found.origin is not None
    assert found.origin.producer == "alice"
    assert any("emit" in one.what for one in found.bytes_differ), found.differs


def test_a_state_that_does_not_have_its_digest(bench: Bench) -> None:
    """Goal: a state that recovery would use is found though no execution reads it. Method: change only its bytes."""

    def change(record: Any) -> Any:
        return record._replace(folds=(record.folds[0]._replace(state=b"\x09" + bytes(7)),))

    found = judged(bench, counting, with_record(records.Completed, 1, change))
    assert told(found) == ("main", 2, "corrupt record")
    assert found.differs == ("state",)
    assert found.bytes_differ[0].at == 0
    assert found.bytes_differ[0].expected_hex.startswith("09")
    assert found.bytes_differ[0].actual_hex.startswith("02")


def test_a_flipped_byte_in_a_record(bench: Bench) -> None:
    """Goal: damage is found at the record, and the first turn without proof is named. Method: change a byte, and
    leave the chain as it is.
    """
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completed, 3) + 1
    bench.flip(number, b"counter/a", b"counter/b")
    report, (found,) = bench.judge()
    assert report.broken is not None
    assert told(found) == ("main", 4, "corrupt record")
    assert (found.record, found.last_good) == (number, number - 1)
    assert "its body was changed after it was written" in found.why
    assert "turns 4" in found.why
    assert found.unproved == (("main", 4),)


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [(b"\x97\x0b", b"\x97\x63", "no rota of this version wrote"), (b"\xa4main", b"\xa4maim", "lane 'maim'")],
)
def test_a_flipped_byte_that_leaves_less_to_read(bench: Bench, find: bytes, put: bytes, says: str) -> None:
    """Goal: a body that is none, or that speaks of a lane that is not there. Method: its kind; the lane's name."""
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completed, 1) + 1
    bench.flip(number, find, put)
    _, (found,) = bench.judge()
    assert told(found) == ("main", 2, "corrupt record")
    assert found.record == number
    assert says in found.why
    assert f"the last good one is record {number - 1}" in "\n".join(lines(found))


@pytest.mark.parametrize("place", [1, -1])
def test_a_record_taken_out_of_the_chain(bench: Bench, place: int) -> None:
    """Goal: a number that is missing, in the middle or at the end, which the head of the file knows. Method: remove a
    completion, and leave the chain as it is.
    """
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completed, place) + 1
    bench.remove(number)
    _, (found,) = bench.judge()
    assert told(found) == ("main", 5 if place < 0 else 2, "corrupt record")
    assert (found.record, found.last_good) == (number, number - 1)


def test_the_same_byte_with_the_chain_made_anew(bench: Bench) -> None:
    """Goal: a forger who changes whose outcome it is is found. Method: change the address of a fold."""
    found = judged(
        bench,
        counting,
        with_record(
            records.Completed, 3, lambda one: one._replace(folds=(one.folds[0]._replace(address="counter/b"),))
        ),
    )
    assert found.turn == 4
    assert found.cause in ("order", "corrupt record")


def test_a_state_inside_a_fold(bench: Bench) -> None:
    """Goal: where the journal has only the digest of a state, that is said. Method: change the digest that the second
    task of a fold left; the bytes in the journal are those after the third.
    """

    def run(bench: Bench) -> None:
        bench.worker()
        bench.deploy("counter")
        bench.submit("counter/a", *[b"add"] * 5)

    found = judged(bench, run, with_outcome(2, state_digest=bytes(32)))
    assert told(found) == ("main", 2, "corrupt record")
    assert found.differs == ("state digest",)
    assert found.expected is not None
    assert found.actual is not None
    assert (found.expected["state"], found.expected["state_from"]) == (None, "digest")
    assert (found.actual["state"], found.actual["state_from"]) == (b"\x02" + bytes(7), "executed")
    assert "the run has only its digest" in "\n".join(lines(found))


def test_a_removed_record(bench: Bench) -> None:
    """Goal: a record that is missing is found, with and without the chain. Method: remove the third completion."""
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completed, 2) + 1
    bench.forge(with_record(records.Completed, 2, lambda _: None))
    report, (found,) = bench.judge()
    assert report.broken is not None
    assert told(found) == ("main", 3, "corrupt record")
    assert found.record == number


def test_a_verdict_that_was_never_passed(bench: Bench) -> None:
    """Goal: a task that ran, and is said to have timed out, is found though verdicts are believed. Method: put a
    verdict in place of a completion; what follows was computed on the state that it left.
    """

    def forgery(found: list[Any]) -> list[Any]:
        index = number_of(found, records.Completed, 1)
        verdict = records.Verdict("main", 1, found[index].now_ms, 2, "timeout", "it ran longer than 10000 ms")
        return [*found[:index], verdict, *found[index + 1 :]]

    found = judged(bench, counting, forgery)
    assert told(found) == ("main", 2, "corrupt record")
    assert "never caught" in found.evidence[0]
    assert found.expected is not None
    assert found.actual is not None
    assert (found.expected["ok"], found.actual["ok"]) == (False, True)


def test_a_verdict_that_no_broker_passes(bench: Bench) -> None:
    """Goal: a verdict with the word of an agent is found in itself. Method: a verdict that says `error`."""

    def forgery(found: list[Any]) -> list[Any]:
        index = number_of(found, records.Completed, -1)
        verdict = records.Verdict("main", 4, found[index].now_ms, 5, "error", "no")
        return [*found[:index], verdict, *found[index + 1 :]]

    assert told(judged(bench, counting, forgery)) == ("main", 5, "corrupt record")


@pytest.mark.parametrize("behind", [0, 1])
def test_a_mark_tells_who_is_right(bench: Bench, behind: int) -> None:
    """Goal: a mark of the run speaks against a changed outcome, even if the engine was another. Method: change a
    result before a mark, and the worker's profile.
    """

    def run(bench: Bench) -> None:
        counting(bench)
        bench.mark()
        if behind:
            bench.submit("counter/a", b"add")

    found = judged(bench, run, with_outcome(4, result=b"7"), with_record(records.Fingerprint, 0, other_profile))
    assert told(found) == ("main", 4, "corrupt record")
    assert any("mark of the run is met with the executed outcome" in one for one in found.evidence)


# --- input --------------------------------------------------------------------------------------------------------


def test_a_changed_payload(bench: Bench) -> None:
    """Goal: an input that is not what was asked for. Method: turn 2 is made to read only."""
    found = judged(bench, counting, submitted(1, b"get"))
    assert told(found) == ("main", 2, "input")
    assert found.origin is not None
    assert found.origin.record == found.record


def test_a_changed_payload_that_changes_nothing(bench: Bench) -> None:
    """Goal: it is found even if every outcome is as it was. Method: any word but `get` counts."""
    found = judged(bench, counting, submitted(3, b"and"))
    assert told(found) == ("main", 4, "input")
    assert found.differs == ()


def test_a_changed_seed(bench: Bench) -> None:
    """Goal: the seed is held against the request that opened the lane. Method: another one, in its record."""
    change = with_record(records.Opened, 1, lambda one: one._replace(settings=one.settings._replace(seed=bytes(32))))
    found = judged(bench, relaying, change)
    assert told(found) == ("side", 1, "input")
    assert "emit 0 target" in found.differs or "emit 1 target" in found.differs


def test_a_changed_seed_of_the_lane_that_nobody_opened(bench: Bench) -> None:
    """Goal: the seed of `main` has no request to hold it against. Method: change it; the default gives the outcome."""

    def run(bench: Bench) -> None:
        bench.worker()
        bench.deploy("counter")
        bench.deploy("relay")
        bench.submit("counter/a", b"add")
        bench.submit("relay/0", b"1 2 3")

    change = with_record(records.Opened, 0, lambda one: one._replace(settings=one.settings._replace(seed=bytes(32))))
    assert told(judged(bench, run, change)) == ("main", 2, "input")


# --- code ---------------------------------------------------------------------------------------------------------


def one_instruction_less(wasm: bytes) -> bytes:
    """The counter with the `i64.const 1` that it adds made a 2."""
    for at in range(len(wasm) - 2):
        if wasm[at : at + 3] == b"\x42\x01\x7c":
            return wasm[: at + 1] + b"\x02" + wasm[at + 2 :]
    raise AssertionError("the counter adds otherwise now")


def test_a_module_changed_by_one_instruction(bench: Bench) -> None:
    """Goal: it is found at the first turn that uses it, not before. Method: change the file; other agents ran first."""
    bench.worker()
    bench.deploy("echo")
    found_code = bench.deploy("counter")
    for target in ("echo/a", "echo/b", "counter/a", "counter/a"):
        bench.submit(target, b"x")
    bench.save()
    path = bench.folder.modules / f"{found_code.digest.hex()}.wasm"
    path.chmod(0o644)
    path.write_bytes(one_instruction_less(module("counter")))
    _, (found,) = bench.judge()
    assert told(found) == ("main", 3, "code")
    assert "is not the module that ran" in found.why


def test_another_module_under_its_own_name(bench: Bench) -> None:
    """Goal: a forger who also changes the deploy. Method: the changed module, its digest, a new chain."""
    counting(bench)
    bench.save()
    changed = one_instruction_less(module("counter"))
    (bench.folder.modules / f"{digest(changed).hex()}.wasm").write_bytes(changed)
    bench.forge(
        with_record(records.Deployed, 0, lambda one: one._replace(code=one.code._replace(digest=digest(changed))))
    )
    _, (found,) = bench.judge()
    assert told(found) == ("main", 1, "code")
    assert found.record == number_of(bench.records(), records.Deployed) + 1


def test_an_agent_that_keeps_memory_between_its_tasks(bench: Bench) -> None:
    """Goal: an agent that must not be deployed with reuse is named, not the journal. Method: it counts its calls in
    memory; two workers, each with its own instance, made the run.
    """
    first, second = bench.worker("w1"), bench.worker("w2")
    bench.deploy("forgetful", reuse=True)
    for place in range(4):
        bench.submit("forgetful/f", b"", run=False)
        busy = first if first.orders else second
        busy.finish()
        if place == 1:
            first.goodbye(draining=True)
    bench.save()
    _, (found,) = bench.judge()
    assert told(found) == ("main", 3, "code")
    assert "'forgetful' keeps memory between its tasks: deploy it without reuse or fix it" in found.why
    assert found.command.endswith("--lane main --to 3")


# --- runtime version ----------------------------------------------------------------------------------------------


def test_another_engine_and_another_outcome(bench: Bench) -> None:
    """Goal: a worker of another engine is named as the cause. Method: its profile and one of its results changed."""
    found = judged(bench, counting, with_record(records.Fingerprint, 0, other_profile), with_outcome(2, result=b"3"))
    assert told(found) == ("main", 2, "runtime version")
    assert "'abi 0, wasmtime 1'" in found.why
    assert found.recorded_by is not None
    assert dict(found.here)["profile"] != dict(found.recorded_by.facts)["profile"]


def test_another_engine_and_the_same_outcomes(bench: Bench) -> None:
    """Goal: that is no divergence, but it is told. Method: only the profile changed."""
    counting(bench)
    bench.save()
    bench.forge(with_record(records.Fingerprint, 0, other_profile))
    report, found = bench.judge()
    assert report.equal
    assert found == []
    (note,) = bench.notes(report)
    assert note[:4] == ("main", 1, "profile", "abi 0, wasmtime 1")


@pytest.mark.parametrize(("forgery", "name"), [({"fuel": 7}, "fuel"), ({"log": ("forged",)}, "log")])
def test_what_no_digest_covers(bench: Bench, forgery: dict[str, Any], name: str) -> None:
    """Goal: fuel and log lines that were not so are told, though nothing follows from them. Method: change them."""
    mirroring(bench)
    bench.save()
    bench.forge(with_outcome(3, **forgery))
    report, found = bench.judge()
    assert report.equal
    assert found == []
    (note,) = bench.notes(report)
    assert (note.lane, note.first_turn, note.name) == ("main", 3, name)
    assert str(note).startswith(f"lane 'main', from turn 3: {name} was ")


# --- order --------------------------------------------------------------------------------------------------------


def test_two_submits_in_the_wrong_places(bench: Bench) -> None:
    """Goal: records that stand in another's place do not follow. Method: exchange two submits."""
    found = judged(bench, counting, exchanged(records.Submitted, 1, 2))
    assert told(found) == ("main", 2, "order")
    assert found.last_good is not None


def test_two_submits_in_a_lane_whose_turns_are_not_seqs(bench: Bench) -> None:
    """Goal: the lane and its turn are named. Method: exchange the two submits of the second lane."""
    found = judged(bench, relaying, exchanged(records.Submitted, 1, 2))
    assert told(found) == ("side", 1, "order")


def test_two_submits_whose_numbers_fit(bench: Bench) -> None:
    """Goal: a forger who also changes numbers and positions. Method: exchange what the second and third ask for."""
    forgery = exchanged(records.Submitted, 1, 2, ("first_seq", "position", "now_ms"))
    found = judged(bench, counting, forgery)
    assert told(found) == ("main", 2, "order")
    assert "turns 2 and 3 of counter/a" in found.why


def test_two_outcomes_of_one_agent_exchanged(bench: Bench) -> None:
    """Goal: outcomes that belong to each other's turns. Method: exchange those of turns 2 and 4, states and all."""

    def forgery(found: list[Any]) -> list[Any]:
        first, second = number_of(found, records.Completed, 1), number_of(found, records.Completed, 3)
        a, b = found[first].folds[0], found[second].folds[0]
        changed = list(found)
        changed[first] = found[first]._replace(folds=(b._replace(turns=a.turns),))
        changed[second] = found[second]._replace(folds=(a._replace(turns=b.turns),))
        return changed

    found = judged(bench, counting, forgery)
    assert told(found) == ("main", 2, "order")
    assert "turns 2 and 4 of counter/a are exchanged" in found.why


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


def test_two_completions_in_a_recorded_lane(bench: Bench) -> None:
    """Goal: the order in which tasks completed is part of what a recorded lane means. Method: exchange two completions;
    what they emitted gets other turns than its outcomes were written for.
    """
    racing(bench)
    bench.save()
    bench.forge(exchanged(records.Completed, 0, 1))
    report, found = bench.judge()
    assert not report.equal
    assert [told(one)[2] for one in found] == ["order"], [(one.lane, one.turn, one.cause, one.why) for one in found]


def test_two_completions_that_only_a_mark_tells_apart(bench: Bench) -> None:
    """Goal: where each order would be a run, the digest that was noted decides. Method: two agents that emit nothing,
    exchanged before a mark.
    """
    first, second = bench.worker("w1"), bench.worker("w2")
    bench.producer.open_lane("race", policy="recorded")
    bench.deploy("counter", lane="race")
    bench.submit("counter/a", b"add", lane="race")
    bench.submit("counter/b", b"add", lane="race", run=False)
    bench.submit("counter/c", b"add", lane="race", run=False)
    second.finish()
    first.finish()
    bench.broker.run()
    bench.mark("race")
    bench.save()
    bench.forge(exchanged(records.Completed, 1, 2))
    report, (found,) = bench.judge()
    assert report.broken is not None
    assert told(found) == ("race", 2, "order")


def test_two_completions_of_one_agent_in_a_recorded_lane(bench: Bench) -> None:
    """Goal: a task cannot complete before the one that it follows. Method: exchange two completions of one agent."""
    bench.worker()
    bench.producer.open_lane("race", policy="recorded")
    bench.deploy("counter", lane="race")
    for _ in range(3):
        bench.submit("counter/a", b"add", lane="race")
    bench.save()
    bench.forge(exchanged(records.Completed, 1, 2))
    _, (found,) = bench.judge()
    assert told(found) == ("race", 2, "order")


# --- the report itself --------------------------------------------------------------------------------------------


def test_what_the_report_holds(bench: Bench) -> None:
    """Goal: both sides whole, for programs and for people. Method: a result and a state that differ in known bytes, by
    an agent that logs.
    """
    found = judged(bench, mirroring, with_outcome(3, result=b"rXsult 2", state=b"stateX2", log=("forged",)))
    assert told(found) == ("main", 3, "corrupt record")
    value = json.loads(json.dumps(found.to_json()))
    assert value["seq"] == 3
    assert value["target"] == "mirror/m"
    assert value["expected"]["result"] == "rXsult 2"
    assert value["actual"]["result"] == "result 2"
    assert value["expected"]["log"] == ["forged"]
    assert value["actual"]["log"] == ["at 2"]
    assert value["expected"]["state"] == "stateX2"
    assert value["actual"]["state"] == "state 2"
    assert value["expected"]["fuel"] == value["actual"]["fuel"] > 0
    assert value["code_digest"] == code("mirror").digest.hex()
    assert value["recorded_by"]["facts"]["profile"] == value["here"]["profile"]
    assert value["origin"]["producer"] == "alice"
    by_name = {one["what"]: one for one in value["bytes_differ"]}
    assert (by_name["result"]["at"], by_name["state"]["at"]) == (1, 5)
    assert by_name["result"]["expected_text"] == "rXsult 2"
    text = "\n".join(lines(found))
    for part in (
        "lane 'main', turn 3, seq 3, tell for mirror/m",
        "corrupt record",
        "result: first differs at byte 1",
        "log: at 2",
        "input       record",
        "the same engine, machine and device facts",
        found.command,
    ):
        assert part in text


def test_the_command_shows_the_turn_again(bench: Bench) -> None:
    """Goal: what the report says to run gives the same report. Method: verify only that turn."""
    found = judged(bench, counting, with_outcome(4, result=b"7"))
    report, again = bench.judge(Options("main", 4, 4))
    assert not report.equal
    assert [told(one) for one in again] == [told(found)]
