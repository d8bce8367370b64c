"""Batches that nobody sees: equal bits in any company, and faults that stay with the task that made them."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import numpy as np
import pytest
from batch_models import WIDTH, dice, difference, giant, heavy, logarithm, lookup, patience

from rota.common.errors import CodeError
from rota.common.model_call import encode_call
from rota.common.work import Done, Failed
from rota.tensors.arrays import decode_arrays, encode_arrays
from rota.worker.executor import Counted, Stuck

ENDLESS = 1e9  # turns of a loop: minutes
STUCK_STEPS = 60_000  # of an LSTM: seconds


def numbers(bench: Any) -> Any:
    """Return the numbers of the only loaded model."""
    (found,) = [report for report in bench.reports if isinstance(report, Counted)][-1].models
    return found


def test_any_company_gives_the_bits_of_a_call_alone(bench: Any, kit: Any) -> None:
    """Goal: batches are invisible. Method: a model whose bits differ between one row and two; calls of 1 to 5 rows,
    each alone in its job first; then in jobs of any size, from three lanes, in any order: equal results from far fewer
    runs. One call has more rows than any batch, one comes by reference."""
    random = np.random.default_rng(1)
    code = bench.add(logarithm, recorded=False)
    arrays = [random.standard_normal((rows, WIDTH), np.float32) for rows in (*([1] * 80), *([2, 3, 4, 5] * 10), 70)]
    calls = [kit.call(x=array) for array in arrays]
    payload, references = encode_arrays({"x": random.standard_normal((600, WIDTH), np.float32)}, store=bench.store)
    calls.append(kit.task(payload, references))
    expected = []
    for call in calls:
        result = bench.run(code, call)
        assert result.provenance[0] == "bitwise"
        assert result.provenance.certificate == "A"
        expected.append(result.outcomes[0])
    before = numbers(bench).calls
    assert before >= len(calls)
    for seed in range(3):
        order = list(range(len(calls)))
        Random(seed).shuffle(order)
        jobs = {}
        while order:
            part = [order.pop() for _ in range(min(len(order), Random(len(order) + seed).randint(1, 20)))]
            jobs[bench.take(code, *[calls[index] for index in part], lane=len(jobs) % 3)] = part
        for part, result in zip(jobs.values(), bench.end(*jobs), strict=True):
            assert result.stopped is None
            assert list(result.outcomes) == [expected[index] for index in part]
    assert numbers(bench).calls - before < len(calls)  # of three times as many


def test_calls_of_exactly_a_certified_size_alternate(bench: Any, kit: Any) -> None:
    """Goal: a call that needs no padding uses the buffers of its own size. Method: certified sizes in any order."""
    code = bench.add(lookup)
    for rows in (2, 8, 4, 1, 64, 2, 8, 3, 64):
        at = np.arange(rows) % 4
        (done,) = bench.run(code, kit.call(at=at)).outcomes
        assert decode_arrays(done.result or b"", (), None)["y"][:, 0].tolist() == (at * 5.0).tolist()


def test_a_row_alone_really_has_other_bits(bench: Any, kit: Any) -> None:
    """Goal: the test above can fail. Method: the same session at one row and at two, without our padding."""
    code = bench.add(logarithm)
    rows = np.random.default_rng(2).standard_normal((64, WIDTH), np.float32)
    bench.run(code, kit.call(x=rows[:1]))
    session = bench.loaded(code).opened.session
    alone = [session.run(["y"], {"x": row[None]})[0].tobytes() for row in rows]
    twice = [session.run(["y"], {"x": np.stack([row, row])})[0][:1].tobytes() for row in rows]
    if alone == twice:
        pytest.skip("one row has the bits of two on this processor")
    assert 1 not in bench.loaded(code).certificate.shapes[0].sizes


def test_a_bad_row_hurts_nobody_else(bench: Any, kit: Any) -> None:
    """Goal: a kernel that refuses one row of a batch fails one task, in the words that it has alone. Method: a bad
    index among good ones, whose place in the batch must not be in the text."""
    code = bench.add(lookup)
    alone = bench.run(code, kit.call(at=np.array([9]))).outcomes[0]
    assert isinstance(alone, Failed)
    assert alone.kind == "bad_input"
    good = bench.run(code, kit.call(at=np.array([2]))).outcomes[0]
    calls = [kit.call(at=np.array([9 if index in (5, 11) else 2])) for index in range(20)]
    result = bench.run(code, *calls)
    assert list(result.outcomes) == [alone if index in (5, 11) else good for index in range(20)]


def test_a_row_that_does_not_end_hurts_nobody_else(bench: Any, kit: Any) -> None:
    """Goal: a timeout is that of one task. Method: three jobs in one batch; the one that loops without end times out,
    after the batch was given up; the others have their results."""
    code = bench.add(patience, recorded=False, timeout_ms=300)
    bench.run(code, kit.call(x=np.zeros((1, 1), np.float32)))
    jobs = [bench.take(code, kit.call(x=np.full((1, 1), value, np.float32))) for value in (1, ENDLESS, 2)]
    first, endless, last = bench.end(*jobs)
    assert (endless.outcomes, endless.stopped) == ((), "timeout")
    for result, y in ((first, 2), (last, 3)):
        (done,) = result.outcomes
        assert decode_arrays(done.result or b"", (), None)["y"].tolist() == [[y]]
    again = bench.end(*[bench.take(code, kit.call(x=np.full((1, 1), 5, np.float32))) for _ in range(4)])
    assert all(isinstance(result.outcomes[0], Done) for result in again)


def test_a_job_is_dropped_while_its_batch_runs(bench: Any, kit: Any) -> None:
    """Goal: dropping one job neither stops nor spoils the others of its batch; dropping all of them stops it. Method:
    two jobs in one batch that runs for a while, then without end, dropped by another thread once the batch runs."""
    code = bench.add(patience, timeout_ms=3_600_000)
    bench.run(code, kit.call(x=np.zeros((1, 1), np.float32)))

    def ended(value: float, dropped: slice) -> list[Any]:
        jobs = [bench.take(code, kit.call(x=np.full((1, 1), value, np.float32))) for _ in range(2)]
        over = threading.Event()

        def drop() -> None:
            while not bench.executor._running and not over.is_set():
                pass
            while not over.wait(0.02):
                for job in jobs[dropped]:
                    bench.executor.drop(job)

        thread = threading.Thread(target=drop)
        thread.start()
        try:
            return list(bench.end(*jobs))
        finally:
            over.set()
            thread.join()

    kept, _ = ended(300_000, slice(1, 2))
    assert isinstance(kept.outcomes[0], Done)
    for result in ended(ENDLESS, slice(0, 2)):
        assert (tuple(result.outcomes), result.stopped) == ((), "interrupted")
    assert isinstance(bench.run(code, kit.call(x=np.zeros((1, 1), np.float32))).outcomes[0], Done)


def test_forms_that_differ_share_a_batch(bench: Any, kit: Any) -> None:
    """Goal: how a producer writes a call does not matter. Method: inputs in another order, other wanted outputs; equal
    shapes in one job, each with its own answer."""
    code = bench.add(difference)
    random = np.random.default_rng(3)
    tasks, expected = [], []
    for number in range(24):
        x, z = random.standard_normal((2, 1 + number % 2, 3), np.float32)
        inputs = {"x": kit.tensor(x), "z": kit.tensor(z)}
        inputs = dict(reversed(inputs.items())) if number % 3 else inputs
        wanted = ((), ("y",), ("same", "y"))[number % 5 % 3]
        tasks.append(kit.task(encode_call(inputs, wanted)))
        answers = {"y": (x - z).tobytes(), "same": x.tobytes()}
        expected.append({name: answers[name] for name in wanted or ("y", "same")})
    result = bench.run(code, *tasks)
    for outcome, wanted in zip(result.outcomes, expected, strict=True):
        assert isinstance(outcome, Done)
        found = decode_arrays(outcome.result or b"", (), None)
        assert {name: array.tobytes() for name, array in found.items()} == wanted
        assert [*found] == [*wanted]
    assert numbers(bench).calls < 12


def test_a_batch_that_cannot_be_stopped_gives_its_tasks_back(bench: Any, kit: Any) -> None:
    """Goal: with nobody to blame, each task comes back `faulted`, to run alone elsewhere, and nothing waits for the
    kernel. Method: two calls in one batch with an LSTM of seconds and a timeout of milliseconds."""
    code = bench.add(heavy, timeout_ms=20)
    bench.run(code, kit.call(x=np.zeros((1, 1), np.float32)))
    jobs = [bench.take(code, kit.call(x=np.full((1, 1), STUCK_STEPS, np.float32))) for _ in range(2)]
    bench.end(*jobs)
    stuck = {report.job: report.results for report in bench.told if isinstance(report, Stuck)}
    assert [*stuck] == jobs
    for (result,) in stuck.values():
        assert (result.outcomes, result.stopped) == ((), "faulted")
        assert "batch of 2" in result.reason
    assert isinstance(bench.run(code, kit.call(x=np.ones((1, 1), np.float32))).outcomes[0], Done)


def test_a_flood_of_one_model_does_not_hold_up_another(bench: Any, kit: Any) -> None:
    """Goal: models take turns. Method: 300 calls of a model that is never batched, then one call of another; steps of
    the executor until that one has ended are counted."""
    flood = bench.add(giant, "flood")
    other = bench.add(lookup, "other")
    bench.run(flood, kit.call(size=np.array([3])))
    bench.run(other, kit.call(at=np.array([1])))
    for _ in range(3):
        bench.take(flood, *[kit.call(size=np.array([3]))] * 100)
    bench.step()
    job = bench.take(other, kit.call(at=np.array([1])), lane=1)
    steps = 0
    while not any(getattr(report, "job", None) == job for report in bench.reports):
        bench.step()
        steps += 1
    assert steps <= 2


def test_a_model_that_draws_numbers_is_refused_unless_recorded(bench: Any, kit: Any) -> None:
    """Goal: class D needs the producer's word, and its results say so. Method: a model of random numbers both ways."""
    code = bench.add(dice, recorded=False)
    x = kit.call(x=np.zeros(3, np.float32))
    with pytest.raises(CodeError, match=r"not repeatable .*RandomUniformLike.* --recorded"):
        bench.prepare(code)
    result = bench.run(code, x)
    assert (tuple(result.outcomes), result.stopped) == ((), "unrepeatable")
    assert "RandomUniformLike" in result.reason
    accepted = bench.run(code._replace(recorded=True), x)
    assert isinstance(accepted.outcomes[0], Done)
    assert (accepted.provenance[0], accepted.provenance.certificate) == ("recorded", "D")


def test_without_memory_idle_models_leave_and_it_is_tried_again(bench: Any, kit: Any) -> None:
    """Goal: a run that finds no memory costs others only a load. Method: a call for terabytes beside an idle model."""
    idle = bench.add(lookup, "idle")
    code = bench.add(giant, "giant")
    first = bench.run(idle, kit.call(at=np.array([1])))
    assert isinstance(bench.run(code, kit.call(size=np.array([3]))).outcomes[0], Done)
    assert len(list(bench.executor._residents)) == 2
    result = bench.run(code, kit.call(size=np.array([1 << 45])))
    assert (tuple(result.outcomes), result.stopped) == ((), "faulted")
    assert len(list(bench.executor._residents)) == 1
    assert bench.run(idle, kit.call(at=np.array([1]))) == first
