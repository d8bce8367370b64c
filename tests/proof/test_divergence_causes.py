"""The test table of the divergence report, second part: code, engines and order of real runs, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from divergence_kit import (
    Bench,
    counting,
    exchanged,
    judged,
    mirroring,
    module,
    number_of,
    other_profile,
    racing,
    relaying,
    told,
    with_outcome,
    with_record,
)

from rota.broker import records
from rota.common.digests import digest

Forgery = Callable[[list[Any]], list[Any]]
Run = Callable[[Bench], None]


# --- code ---------------------------------------------------------------------------------------------------------


def one_instruction_less(wasm: bytes) -> bytes:
    """The counter with `i64.const 1` changed to 2, so that it adds 2."""
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


def test_an_agent_that_keeps_memory_and_runs_out_of_fuel_by_it(bench: Bench) -> None:
    """Goal: the same where only the fuel tells. Method: an agent that needs more for its first task, with too little
    for that; in the run another lane's task was the first.
    """
    bench.worker("w1")
    bench.producer.open_lane("other")
    for lane in ("main", "other"):
        bench.deploy("lazy", reuse=True, lane=lane, fuel=300)
    bench.submit("lazy/a", b"short", lane="other")
    bench.submit("lazy/b", bytes(300))
    bench.save()
    _, (found,) = bench.judge()
    assert told(found) == ("main", 1, "code")
    assert "'lazy' keeps memory between its tasks and runs out of fuel by it" in found.why


@pytest.mark.parametrize(("name", "what"), [("lazy", "fuel"), ("talking", "log")])
def test_an_agent_whose_kept_memory_shows_in_fuel_or_log_alone(bench: Bench, name: str, what: str) -> None:
    """Goal: the turns are equal, and a note names the agent whose promise of reuse is broken. Method: its fuel or its
    log tells how many tasks its instance has had; in the run another lane's task was the first.
    """
    bench.worker("w1")
    bench.producer.open_lane("other")
    for lane in ("other", "main"):
        bench.deploy(name, reuse=True, lane=lane)
    bench.submit(f"{name}/a", b"short", lane="other")
    bench.submit(f"{name}/b", bytes(300))
    bench.save()
    report, found = bench.judge()
    assert (report.equal, found) == (True, [])
    (note,) = [one for one in bench.notes(report) if one.lane == "main"]
    assert (note.first_turn, note.name, note.reused) == (1, what, name)
    assert f"{name!r} may keep memory between its tasks: deploy it without reuse or fix it" in str(note)


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
        first, second = number_of(found, records.Completion, 1), number_of(found, records.Completion, 3)
        a, b = found[first].folds[0], found[second].folds[0]
        changed = list(found)
        changed[first] = found[first]._replace(folds=(b._replace(turns=a.turns),))
        changed[second] = found[second]._replace(folds=(a._replace(turns=b.turns),))
        return changed

    found = judged(bench, counting, forgery)
    assert told(found) == ("main", 2, "order")
    assert "turns 2 and 4 of counter/a are exchanged" in found.why


def test_two_completions_in_a_recorded_lane(bench: Bench) -> None:
    """Goal: the order in which tasks completed is part of what a recorded lane means. Method: exchange two completions;
    what they emitted gets other turns than its outcomes were written for.
    """
    racing(bench)
    bench.save()
    bench.forge(exchanged(records.Completion, 0, 1))
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
    bench.forge(exchanged(records.Completion, 1, 2))
    report, (found,) = bench.judge()
    assert report.damage is not None
    assert told(found) == ("race", 2, "order")


def test_two_completions_of_one_agent_in_a_recorded_lane(bench: Bench) -> None:
    """Goal: a task cannot complete before the one that it follows. Method: exchange two completions of one agent."""
    bench.worker()
    bench.producer.open_lane("race", policy="recorded")
    bench.deploy("counter", lane="race")
    for _ in range(3):
        bench.submit("counter/a", b"add", lane="race")
    bench.save()
    bench.forge(exchanged(records.Completion, 1, 2))
    _, (found,) = bench.judge()
    assert told(found) == ("race", 2, "order")
