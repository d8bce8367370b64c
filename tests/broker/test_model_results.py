"""Results of models: which a lane accepts, when two must be equal, and a model that cannot repeat its own."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker, SimWorker
from scripted import MODEL_CODE, UNSTABLE_CODE, UNSTABLE_REFUSED, program

from rota.broker import records
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.errors import JournalError
from rota.common.events import OutcomesDiffer, TaskUndone, WorkerExpelled
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import MODEL, Code, Done, Provenance

ADD = program(["add", 1])
A = Provenance("bitwise", "cpu", bytes(32), "A")
D = Provenance("recorded", "cpu", bytes(32), "D")
REMEDY = "its results would not be repeatable: deploy the model with --recorded to accept them as recorded values"


def test_a_model_that_cannot_repeat_its_results_is_refused(broker: Broker) -> None:
    """Goal: no lane gets recorded results that it did not ask for, and the text says what to do. Method: a model of
    certificate D bound with and without `recorded`; the worker's reason is in the events.
    """
    alice = broker.producer()
    alice.deploy("model:net", UNSTABLE_REFUSED)
    broker.worker("g1", pool="gpu")
    alice.submit("model:net", ADD, ADD)
    broker.run()
    assert [(one.kind, one.message) for one in alice.results.values()] == [("refused", REMEDY)] * 2
    assert {one.reason for one in broker.told(TaskUndone, why="unrepeatable")} == {"its results differ from run to run"}
    alice.deploy("model:net", UNSTABLE_CODE)
    alice.submit("model:net", ADD)
    broker.run()
    assert alice.results[3].ok
    assert alice.results[3].provenance is not None
    assert alice.results[3].provenance.result_class == "recorded"
    broker.restart()
    assert broker.lane().retired == 3


def test_a_worker_that_can_repeat_them_gets_the_task(broker: Broker) -> None:
    """Goal: a model may be unstable on one device and not on another. Method: the first worker says so, the second runs
    it.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    odd = broker.worker("odd", pool="gpu")
    alice.submit("model:net", ADD)
    broker.worker("good", pool="gpu")
    odd.lie(outcomes=(), state=None, stopped="unrepeatable", reason="unstable here", provenance=None)
    broker.run()
    assert alice.results[1].ok


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (D, "which its binding does not accept"),
        (A._replace(certificate="D"), "class bitwise under certificate 'D'"),
        (A._replace(certificate=""), "class bitwise under certificate ''"),
        (D._replace(certificate="A"), "class recorded under certificate 'A'"),
        (None, "without provenance"),
    ],
)
def test_a_result_that_the_binding_does_not_accept_is_a_lie(
    broker: Broker, source: Provenance | None, told: str
) -> None:
    """Goal: what a lane demands does not depend on its workers' good will. Method: one lie each; the task
    runs elsewhere.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    liar = broker.worker("liar", pool="gpu")
    alice.submit("model:net", ADD)
    liar.lie(provenance=source)
    (expelled,) = broker.told(WorkerExpelled, worker="liar")
    assert told in expelled.reason
    assert broker.lane().retired == 0
    broker.worker("good", pool="gpu")
    broker.run()
    assert alice.results[1].ok


@pytest.mark.parametrize(
    ("kept", "late", "differs"),
    [
        (A, A, True),
        (A, A._replace(certificate="C"), True),
        (A, A._replace(fingerprint=b"2" * 32), False),
        (A, D, False),
        (D, D, False),
        (D, A, False),
    ],
)
@pytest.mark.parametrize("is_early", [False, True])
def test_bitwise_results_of_one_fingerprint_are_compared(
    broker: Broker, kept: Provenance, late: Provenance, differs: bool, is_early: bool
) -> None:
    """Goal: a certificate that does not hold is told, and what may differ is not. Method: another result for the same
    call, after the one that stands or before it.
    """
    alice = broker.producer()
    alice.deploy("model:net", UNSTABLE_CODE)
    slow = broker.worker("slow", pool="gpu")
    alice.submit("model:net", ADD)
    answer = slow.compute(slow.orders[0])
    slow.die()
    quick = broker.worker("quick", pool="gpu")
    one = answer.folds[0]
    outcomes = (one.outcomes[0]._replace(result=b"other"),)
    other = answer._replace(folds=(one._replace(outcomes=outcomes, provenance=late),))
    if is_early:
        SimWorker(broker, "slow").say(other)
        quick.lie(provenance=kept)
    else:
        quick.lie(provenance=kept)
        SimWorker(broker, "slow").say(other)
    assert broker.core.world.divergences == len(broker.told(OutcomesDiffer)) == differs
    assert alice.results[1].result != b"other"


# --- journals -----------------------------------------------------------------------------------------------------


def _run(code: Code, *after: Any) -> None:
    """Fold a journal with one submitted task of this code, and some records."""
    opened = records.Opened("main", 0, records.NOBODY, LaneSettings(seed=bytes(32)), False, (("model:m", code),))
    asked = records.Submitted("main", 0, 0, records.NOBODY, 1, (TaskRun.of("model:m", 0, (b"",), None),), None)
    fold(World(), [records.Epoch(1, 0, ()), opened, records.Fingerprint(1, "gpu", ()), asked, *after])


def _completed(source: Provenance | None) -> records.Completion:
    done = Done(b"", None, (), (), 0, ())
    return records.Completion("main", 0, "w", 0, 1, (records.CompletedFold("model:m", (1,), (done,), None, source),))


def test_a_journal_holds_only_results_that_its_bindings_accept() -> None:
    """Goal: whoever holds a journal knows which of its results can be computed again. Method: a completion of each kind
    for a binding of each kind.
    """
    strict, lenient = Code(bytes(32), MODEL), Code(bytes(32), MODEL, recorded=True)
    _run(strict, _completed(A))
    _run(lenient, _completed(A))
    _run(lenient, _completed(D))
    with pytest.raises(JournalError, match="does not accept"):
        _run(strict, _completed(D))
    with pytest.raises(JournalError, match="without provenance"):
        _run(strict, _completed(None))


def test_the_words_of_a_refusal_fit_the_binding() -> None:
    """Goal: the remedy is named only where it is one. Method: the verdict on bindings of each kind."""
    verdict = records.Verdict("main", 0, 0, 1, "refused", REMEDY, ())
    _run(Code(bytes(32), MODEL), verdict)
    with pytest.raises(JournalError, match="no broker gives"):
        _run(Code(bytes(32), MODEL, recorded=True), verdict)
    _run(Code(bytes(32), MODEL, recorded=True), verdict._replace(message="no worker can run its code"))
