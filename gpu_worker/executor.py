"""Runs the tasks of models: many jobs at once, in batches where a certificate allows it. Implements `Executor`.

A step admits what has come, then does one piece of work of the model whose turn it is: one batch, one call, or one step
of all texts that are generated. What waits goes as soon as the device is free; there are no timers. Decision 0020 says
how calls take turns and why nobody can see the batches.

A mistake in the payload or the model is the task's outcome. What this worker cannot do is not an outcome, and the
broker decides: a model that is missing or does not load ends the fold as `refused`; a call that cannot be done here (a
tensor is missing, host or device refuse memory) ends it as `faulted`. A timeout or fault in a batch concerns one task:
the members of the batch run again one by one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rota.common.columns import new_tuple
from rota.common.errors import BadPayload, CodeError, TensorError
from rota.common.limits import MODELS_SHOWN_MAX, TENSORS_PER_TASK_MAX
from rota.common.work import MODEL, Code, Done, Outcome
from rota.conversations.store import ConversationStore
from rota.gpu_worker.admission import Admission
from rota.gpu_worker.fingerprint import machine_facts
from rota.gpu_worker.inference import Inference, Packed, RunEnded
from rota.gpu_worker.model_jobs import FoldRun, JobRun, QueuedCall, failed
from rota.gpu_worker.providers import choose
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.residents import ModelLine, Resident, Residents, default_budget_bytes, estimated_bytes
from rota.gpu_worker.run_errors import says_no_memory
from rota.gpu_worker.sessions import ModelLoader
from rota.gpu_worker.text_runs import TextRuns
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.store import TensorStore
from rota.worker.executor import Counted, Ended, Job, Look, Looked, Outside, Preparing, Report, Stuck
from rota.worker.preparations import Preparations

COUNTS_EVERY_S: Final = 0.5

logger = logging.getLogger(__name__)


class ModelExecutor:
    """Runs model tasks on one device. Call it from one thread, except for `drop`."""

    def __init__(
        self,
        models_dir: Path,
        tensors: TensorStore | None,
        outside: Outside,
        *,
        device: str = "auto",
        require: bool = False,
        threads: int = 1,
        memory_bytes: int = 0,
        conversations: ConversationStore | None = None,
        certificates: Path | None = None,
    ) -> None:
        """`device` is for `choose`: "auto" falls back to the CPU and says so; with `require` that is a `ConfigError`.

        `memory_bytes` is the budget of all loaded models, 0 for half of the host's memory. Without `conversations`,
        tasks that continue one end as `faulted`; the executor closes it. New certificates are kept in the folder
        `certificates`, or else in that of the models.
        """
        self.provider, self.reason, wanted = choose(device, require=require)
        self._outside = outside
        self._threads = threads
        self._repository = Repository(models_dir)
        self._loader = ModelLoader(threads=threads, require=wanted, tensors=tensors, certificates=certificates)
        self._preparations = Preparations(outside.wake)
        self._residents = Residents(memory_bytes or default_budget_bytes())
        self._watchdog = RunWatchdog(self._overran)
        self._inference = Inference(tensors, self._watchdog)
        self._admission = Admission()
        self._texts = TextRuns(self._watchdog, conversations)
        self._jobs: dict[int, JobRun] = {}
        self._arrived: deque[JobRun] = deque()
        self._looks: deque[Look] = deque()
        self._lines: dict[bytes, ModelLine] = {}  # by the model's digest: loaded, or with something that waits
        self._turns: OrderedDict[bytes, ModelLine] = OrderedDict()  # those with work; the first is next
        self._wanting: deque[ModelLine] = deque()  # that wait for room
        self._said: Preparing = Preparing(())
        self._turn = threading.Lock()  # held while the running jobs change, and to interrupt them
        self._running: tuple[QueuedCall, ...] = ()
        self._has_dropped = False
        self._counted_s = 0.0
        self._is_counted = True

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the facts shared by all models of this worker; a result names its session's whole fingerprint."""
        return {**machine_facts(self.provider), "threads": str(self._threads), "reason": self.reason}

    def take(self, job: Job) -> None:
        if isinstance(job, Look):
            self._looks.append(job)
            return
        taken = self._jobs[job.number] = JobRun(job.number, job.folds)
        self._arrived.append(taken)

    def step(self) -> list[Report]:
        reports: list[Report] = []
        if self._has_dropped:
            self._end_dropped(reports)
        if self._preparations:
            self._take_loaded(reports)
        while self._looks:
            self._look(self._looks.popleft(), reports)
        while self._arrived:
            self._admit_job(self._arrived.popleft(), reports)
        if self._turns:
            self._run(next(iter(self._turns.values())), reports)
        if self._wanting:
            self._make_room(reports)
        self._report_state(reports)
        if not reports and self._turns:
            self._outside.wake()
        return reports

    def drop(self, job: int) -> None:
        found = self._jobs.get(job)
        if found is None:
            return
        with self._turn:
            found.dropped = self._has_dropped = True
            running = self._running
            if not any(call.fold.job is found for call in running):
                self._outside.wake()  # it ends with the next step
                return
            if not all(call.fold.job.dropped for call in running):
                return  # it ends with its batch, which is others' too
            self._watchdog.interrupt()
            if found.stopping.is_stuck(time.monotonic()):
                self._outside.tell(Stuck(found.number, None, 0))

    def close(self) -> None:
        self._loader.stop()
        self._preparations.close()
        for line in self._residents:
            if line.resident is not None:
                line.resident.close()
                line.resident = None
        self._lines.clear()
        self._texts.close()
        self._watchdog.close()

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _admit_job(self, job: JobRun, reports: list[Report]) -> None:
        begun_ns = time.perf_counter_ns()
        for fold in job.folds:
            line = self._line(fold.fold.code, fold.fold.address)
            if self._serves(line):
                self._admit(line, fold)
            else:
                line.folds.append(fold)
                self._load(line, reports)
        job.elapsed_us += (time.perf_counter_ns() - begun_ns) / 1_000
        self._end_if_done(job, reports)

    def _admit(self, line: ModelLine, fold: FoldRun) -> None:
        """Queue the calls of a fold whose model is loaded."""
        assert line.resident is not None
        certificate = line.resident.certificate
        if not certificate.is_repeatable and not fold.fold.code.recorded:
            reason = f"its results are not repeatable ({certificate.reason}): deploy it with --recorded"
            fold.cut(0, "unrepeatable", reason)
            return
        fold.provenance = line.resident.provenance
        self._admission.admit(line, line.resident, fold)
        self._note_work(line)

    def _note_work(self, line: ModelLine) -> None:
        if line.has_work and line.digest not in self._turns:
            self._turns[line.digest] = line

    def _end_if_done(self, job: JobRun, reports: list[Report]) -> None:
        if not job.left and self._jobs.pop(job.number, None) is not None:
            reports.append(Ended(job.number, job.results(), int(job.elapsed_us)))

    def _end_dropped(self, reports: list[Report]) -> None:
        self._has_dropped = False
        for job in [job for job in self._jobs.values() if job.dropped]:
            for fold in job.folds:
                fold.give_up("interrupted")
            self._end_if_done(job, reports)
        for line in list(self._lines.values()):
            line.folds = deque(fold for fold in line.folds if not fold.job.dropped)
            for number in [number for number, call in line.texts.items() if not call.is_wanted]:
                self._texts.drop(line, number)
            self._forget_if_unused(line)

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self, line: ModelLine, reports: list[Report]) -> None:
        """Do one piece of work of a model, if it still has some."""
        assert line.resident is not None
        self._turns.move_to_end(line.digest)
        self._residents.used(line)
        begun_ns = time.perf_counter_ns()
        if line.resident.generating is not None:
            served = self._step_texts(line, line.resident, reports)
        else:
            served = [call for call in line.waiting.take() if call.is_wanted] if line.waiting else []
            if served:
                self._run_calls(line, line.resident, served)
        elapsed_us = (time.perf_counter_ns() - begun_ns) / 1_000
        for call in served:  # a step of texts serves all requests in progress, so the broker sees what a text takes
            call.fold.job.elapsed_us += elapsed_us / len(served)
        for job in dict.fromkeys(call.fold.job for call in served):
            self._end_if_done(job, reports)
        self._is_counted = self._is_counted and not served
        if not line.has_work:
            del self._turns[line.digest]
            if line.closing:
                self._residents.unload(line)
                self._load(line, reports)

    def _step_texts(self, line: ModelLine, resident: Resident, reports: list[Report]) -> list[QueuedCall]:
        """Do one step of all texts; return the requests that took part, and those that ended before it."""
        served = self._start_texts(line, resident)
        served += line.texts.values()
        self._begin(tuple(line.texts.values()))
        try:
            self._texts.step(line, resident, reports)
        finally:
            self._end()
        return served

    def _start_texts(self, line: ModelLine, resident: Resident) -> list[QueuedCall]:
        """Start what waits while there are slots; return the calls that have ended at once."""
        assert resident.generating is not None
        ended: list[QueuedCall] = []
        while line.waiting and not resident.generating.is_full:
            (call,) = line.waiting.take()
            if not call.is_wanted:
                continue
            self._begin((call,))
            try:
                self._texts.start(line, resident, call)
            finally:
                self._end()
            if not call.is_wanted:
                ended.append(call)
        return ended

    def _run_calls(self, line: ModelLine, resident: Resident, calls: list[QueuedCall]) -> None:
        self._begin(tuple(calls))
        line.calls += 1
        line.rows += sum([call.rows for call in calls])
        try:
            if len(calls) == 1:
                self._run_one(line, resident, calls[0])
            else:
                self._run_batch(line, resident, calls)
        finally:
            self._end()

    def _run_batch(self, line: ModelLine, resident: Resident, calls: list[QueuedCall]) -> None:
        assert resident.session is not None
        timeout_ms = max([call.timeout_ms for call in calls])
        plan, rows = calls[0].plan, [call.rows for call in calls]
        try:
            if calls[0].part is None:
                results = self._inference.run_batch(
                    resident.session, plan, [call.call for call in calls], rows, timeout_ms
                )
                for call, result in zip(calls, results, strict=True):
                    call.fold.finish(call.place, _outcome(result, call))
            else:
                arrays = self._inference.run_rows(
                    resident.session, plan, [call.call for call in calls], rows, timeout_ms
                )
                for call, array in zip(calls, arrays, strict=True):
                    self._admission.part_done(call, array)
        except (BadPayload, RunEnded, TensorError, MemoryError) as error:
            if isinstance(error, RunEnded) and error.stopped == "timeout":
                resident.session.limit_rows(plan, sum(rows) // 2)
            for call in calls:
                line.waiting.add_single(call)

    def _run_one(self, line: ModelLine, resident: Resident, call: QueuedCall) -> None:
        assert resident.session is not None
        try:
            self._outcome_of(resident, call)
        except RunEnded as end:
            if end.out_of_memory and self._residents.unload_idle(line):
                logger.warning("%s: out of memory; unloaded what was idle, trying once more", line.address)
                self._run_one(line, resident, call)  # with nothing idle left, it is not repeated again
                return
            call.fold.cut(call.place, end.stopped, end.reason)

    def _outcome_of(self, resident: Resident, call: QueuedCall) -> None:
        """Run one call and note its outcome. Raises `RunEnded` if there is none."""
        session = resident.session
        assert session is not None
        try:
            if call.part is None:
                result = self._inference.run(session, call.plan, call.call, call.timeout_ms)
                call.fold.finish(call.place, _outcome(result, call))
            else:
                (arrays,) = self._inference.run_rows(session, call.plan, [call.call], [call.rows], call.timeout_ms)
                self._admission.part_done(call, arrays)
        except BadPayload as error:
            call.fold.refuse(call.place, error)
        except TensorError as error:
            raise RunEnded("faulted", error.message) from error
        except MemoryError as error:
            text = f"not enough memory for model {resident.entry.name}: {error}"
            raise RunEnded("faulted", text, out_of_memory=True) from error

    def _begin(self, calls: tuple[QueuedCall, ...]) -> None:
        with self._turn:
            self._running = calls
            self._watchdog.begin_fold()
            if calls and all(call.fold.job.dropped for call in calls):
                self._watchdog.interrupt()

    def _end(self) -> None:
        with self._turn:
            self._running = ()
            self._watchdog.end_fold()

    def _overran(self) -> None:
        """Report calls that timed out and do not stop. Called by the watchdog, which holds their results back."""
        calls = self._running
        for call in calls:
            if len(calls) == 1:
                call.fold.cut(call.place, "timeout", f"ran longer than {call.timeout_ms} ms")
            else:  # nobody knows whose fault it is: each runs again alone, and the one to blame then gets a verdict
                call.fold.cut(call.place, "faulted", f"a batch of {len(calls)} calls does not end")
        for job in dict.fromkeys(call.fold.job for call in calls):
            if job.dropped:
                continue
            for fold in job.folds:
                fold.give_up("interrupted")
            job.began = job.dropped = self._has_dropped = True  # the rest of it runs elsewhere
            self._outside.tell(Stuck(job.number, job.results(), int(job.elapsed_us)))

    # --- models -----------------------------------------------------------------------------------------------------

    def _line(self, code: Code, address: str) -> ModelLine:
        assert code.kind == MODEL, (code.kind, address)
        line = self._lines.get(code.digest)
        if line is None:
            line = self._lines[code.digest] = ModelLine(code.digest, address)
        return line

    def _forget_if_unused(self, line: ModelLine) -> None:
        if line.resident is None and not line.loading and not line.wants_model:
            self._lines.pop(line.digest, None)
            if line in self._wanting:
                self._wanting.remove(line)

    def _look(self, look: Look, reports: list[Report]) -> None:
        line = self._line(look.code, look.address)
        if self._serves(line):
            assert line.resident is not None
            reports.append(_looked(line.resident, look))
        else:
            line.looks.append(look)
            self._load(line, reports)

    def _serves(self, line: ModelLine) -> bool:
        """Return whether a model is loaded and takes more calls. One whose version was removed finishes what it has."""
        if line.resident is not None and not line.resident.entry.is_there:
            if line.has_work:
                line.closing = True
            else:
                self._residents.unload(line)
        return line.resident is not None and not line.closing

    def _load(self, line: ModelLine, reports: list[Report]) -> None:
        """Load a model that something waits for, now or when there is room for it."""
        if line.resident is not None or line.loading or line in self._wanting:
            return
        if not line.wants_model:
            self._forget_if_unused(line)
            return
        try:
            entry = line.entry = line.entry or self._repository.find(line.digest)
        except CodeError as error:
            self._refuse(line, error.message, reports)
            return
        if self._wanting or not self._residents.reserve(line, estimated_bytes(entry)):
            self._wanting.append(line)
            return
        self._preparations.begin(Code(line.digest, MODEL), lambda: lambda: self._loader.load(entry))

    def _make_room(self, reports: list[Report]) -> None:
        """Load the models that wait for room, in order, as far as there is some."""
        waiting, self._wanting = self._wanting, deque()
        while waiting and not self._wanting:
            self._load(waiting.popleft(), reports)
        self._wanting += waiting

    def _take_loaded(self, reports: list[Report]) -> None:
        for code, resident, error in self._preparations.take_ended():
            line = self._lines[code.digest]
            self._residents.install(line, resident)
            self._is_counted = False
            if error is not None:
                if says_no_memory(error.message) and self._residents.unload_idle(line):
                    logger.warning("%s: out of memory; unloaded what was idle, loading it once more", line.address)
                    self._load(line, reports)
                else:
                    self._refuse(line, error.message, reports)
                continue
            reports += [_looked(resident, look) for look in line.looks]
            line.looks.clear()
            while line.folds:
                fold = line.folds.popleft()
                self._admit(line, fold)
                self._end_if_done(fold.job, reports)

    def _refuse(self, line: ModelLine, reason: str, reports: list[Report]) -> None:
        reports += [Looked(look.number, None, reason) for look in line.looks]
        line.looks.clear()
        while line.folds:
            fold = line.folds.popleft()
            fold.cut(0, "refused", reason)
            self._end_if_done(fold.job, reports)
        self._forget_if_unused(line)

    # --- what others see ----------------------------------------------------------------------------------------------

    def _report_state(self, reports: list[Report]) -> None:
        pending: dict[tuple[int, str], None] = {}
        for line in self._lines.values():
            for look in line.looks:
                pending[(look.number, look.address)] = None
            for fold in line.folds:
                pending[(fold.job.number, fold.fold.address)] = None
        if (preparing := Preparing(tuple(pending))) != self._said:
            self._said = preparing
            reports.append(preparing)
        now_s = time.monotonic()
        if not self._is_counted and (not self._turns or now_s - self._counted_s > COUNTS_EVERY_S):
            self._is_counted, self._counted_s = True, now_s
            loaded = [line.numbers() for line in self._residents]
            reports.append(Counted(tuple(loaded[-MODELS_SHOWN_MAX:])))


def _looked(resident: Resident, look: Look) -> Looked:
    if not resident.certificate.is_repeatable and not look.code.recorded:
        reason = f"its results are not repeatable ({resident.certificate.reason}): deploy it with --recorded"
        return Looked(look.number, None, reason)
    return Looked(look.number, resident.description(), "")


def _outcome(packed: Packed, call: QueuedCall) -> Outcome:
    """Return the outcome of a task with this result."""
    result, references = packed
    limit = call.fold.fold.code.limits.result_bytes
    if len(result) > limit:
        return failed("bad_output", f"the result has {len(result)} bytes, the limit is {limit}")
    if len(references) > TENSORS_PER_TASK_MAX:
        return failed("bad_output", f"the result has {len(references)} large tensors, at most {TENSORS_PER_TASK_MAX}")
    done: Done = new_tuple(Done, (result, None, (), (), 0, references, 0, None))
    return done
