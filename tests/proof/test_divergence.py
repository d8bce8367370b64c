"""The test table of the divergence report, first part: changed records and inputs of real runs, one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from divergence_kit import (
    Bench,
    code,
    counting,
    judged,
    mirroring,
    number_of,
    other_profile,
    output,
    relaying,
    submitted,
    told,
    unsigned,
    with_outcome,
    with_record,
)

from rota.broker import records
from rota.common.work import Emit
from rota.proof.divergence_text import lines
from rota.proof.verify import VerifyOptions

Forgery = Callable[[list[Any]], list[Any]]
Run = Callable[[Bench], None]


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
        (counting, with_outcome(4, state=b"\x09"), 4, "state"),
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
    number = number_of([records.decode(body) for body in bench.broker.journal], records.Completion, 1) + 1
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
        return record._replace(folds=(record.folds[0]._replace(state=b"\x09"),))

    found = judged(bench, counting, with_record(records.Completion, 1, change))
    assert told(found) == ("main", 2, "corrupt record")
    assert found.differs == ("state",)
    assert found.bytes_differ[0].at == 0
    assert found.bytes_differ[0].expected_hex.startswith("09")
    assert found.bytes_differ[0].actual_hex.startswith("02")


def test_a_size_of_a_state_that_is_not_its_size(bench: Bench) -> None:
    """Goal: the size that counts against the budget cannot be forged, though no digest covers it. Method: of the last
    state of a fold, which the record has, another size: the journal breaks off there, for a broker too. Of an inner
    one, which only an execution gives: the turn diverges.
    """
    bench.worker()
    bench.deploy("counter")
    bench.submit("counter/a", *[b"add"] * 12)
    bench.save()
    assert bench.verify().equal
    turns = next(one.folds[0].turns for one in bench.records() if isinstance(one, records.Completion))
    inner, last = turns[0], turns[-1]
    assert inner < last, "or no outcome is inside of a fold"
    bench.forge(with_outcome(inner, state_bytes=100))
    report, (found,) = bench.judge()
    assert report.damage is None
    assert told(found) == ("main", inner, "corrupt record")
    assert found.differs == ("state bytes",)
    bench.forge(with_outcome(inner, state_bytes=1))
    assert bench.verify().equal
    bench.forge(with_outcome(last, state_bytes=100))
    report, (found,) = bench.judge()
    assert report.damage is not None
    assert "the state of 'counter/a' has 1 bytes, its outcome says 100" in report.damage.message
    assert told(found) == ("main", inner, "corrupt record")


def test_a_flipped_byte_in_a_record(bench: Bench) -> None:
    """Goal: damage is found at the record, and the first turn without proof is named. Method: change a byte, and
    leave the chain as it is.
    """
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completion, 3) + 1
    bench.flip(number, b"counter/a", b"counter/b")
    report, (found,) = bench.judge()
    assert report.damage is not None
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
    number = number_of(bench.records(), records.Completion, 1) + 1
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
    number = number_of(bench.records(), records.Completion, place) + 1
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
            records.Completion, 3, lambda one: one._replace(folds=(one.folds[0]._replace(address="counter/b"),))
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
    assert (found.actual["state"], found.actual["state_from"]) == (b"\x02", "executed")
    assert "the run has only its digest" in "\n".join(lines(found))


def test_a_removed_record(bench: Bench) -> None:
    """Goal: a record that is missing is found, with and without the chain. Method: remove the third completion."""
    counting(bench)
    bench.save()
    number = number_of(bench.records(), records.Completion, 2) + 1
    bench.forge(with_record(records.Completion, 2, lambda _: None))
    report, (found,) = bench.judge()
    assert report.damage is not None
    assert told(found) == ("main", 3, "corrupt record")
    assert found.record == number


def test_a_verdict_that_was_never_passed(bench: Bench) -> None:
    """Goal: a task that ran, and is said to have timed out, is found though verdicts are believed. Method: put a
    verdict in place of a completion; what follows was computed on the state that it left.
    """

    def forgery(found: list[Any]) -> list[Any]:
        index = number_of(found, records.Completion, 1)
        verdict = records.Verdict("main", 1, found[index].now_ms, 2, "timeout", "it ran longer than 10000 ms", ())
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
        index = number_of(found, records.Completion, -1)
        verdict = records.Verdict("main", 4, found[index].now_ms, 5, "error", "no", ())
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


def test_a_changed_payload_that_nobody_signed(bench: Bench) -> None:
    """Goal: without the digest of a request an input is as good as its outcome; the turn is found all the same."""
    found = judged(bench, counting, unsigned(records.Submitted), submitted(1, b"get"))
    assert told(found) == ("main", 2, "corrupt record")


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
    report, again = bench.judge(VerifyOptions("main", 4, 4))
    assert not report.equal
    assert [told(one) for one in again] == [told(found)]
