"""Runs folds in worker processes: a `Runner` (engine/engine.py) that survives the death of any of them.

Each process has a thread here, which sends it one batch, waits for the answer, and takes the next, so a fast process
gets more. If a process dies, any free one runs its batch again, each fold alone, because one of them may have killed
it; a fold that alone kills three processes is an error that names it. Processes exit when their stdin closes, so none
outlives this one, and Ctrl-C waits for nothing.

`Kills` kills processes on purpose, to show that deaths leave no trace in any digest.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from rota.common.code_kinds import kind_of
from rota.common.errors import ConfigError, LocalError, RotaError
from rota.common.limits import ASSIGNMENT_BYTES_MAX, POISON_DEATHS_MAX
from rota.common.work import Fold, FoldResult
from rota.engine.executors import Folders
from rota.proof.frames import (
    AskFingerprint,
    PrepareCode,
    Request,
    RunFolds,
    decode_results,
    encode_request,
    read_frame,
    unpack_answer,
    write_frame,
)

PROCESSES_MAX: Final = 256
KILLS_MAX: Final = 16

_BATCHES_PER_PROCESS: Final = 3  # of one `run_all`: small enough to balance the load, large enough to limit overhead
_KILL_SECONDS_MAX: Final = 0.02  # after a batch was sent
_LOOK_SECONDS: Final = 0.5  # on Windows a wait without a timeout cannot be interrupted


class Kills:
    """The schedule of kills: at the first batch, then at growing intervals, at most `KILLS_MAX` times."""

    def __init__(self, seed: int) -> None:
        self.done = 0
        self._random = Random(seed)
        self._batches_left = 0

    def delay_seconds(self) -> float | None:
        """Return after how long to kill the process that was just sent a batch; None: do not kill it."""
        self._batches_left -= 1
        if self.done == KILLS_MAX or self._batches_left >= 0:
            return None
        self.done += 1
        self._batches_left = self._random.randint(0, 4 << min(self.done, 6))
        return self._random.uniform(0, _KILL_SECONDS_MAX)


class _FoldJob(NamedTuple):
    """A request to a process. `places`: the indexes of its folds in the caller's list."""

    request: Request
    places: tuple[int, ...] = ()
    deaths: int = 0


class _JobDone(NamedTuple):
    job: _FoldJob
    answer: bytes


class Processes:
    """A runner over `count` processes; use it in a `with` block. Only one thread may call it."""

    def __init__(self, folders: Folders, count: int, *, device: str = "auto", kills: Kills | None = None) -> None:
        assert 1 <= count <= PROCESSES_MAX
        self.deaths = 0  # of processes, kills on purpose not included
        self._command = [sys.executable, "-P", "-m", "rota.proof.process_main"]
        self._command += map(str, (folders.modules, folders.artefacts, folders.models, folders.tensors))
        self._command.append(str(folders.conversations))
        self._command += [str(folders.lent_tensors or ""), str(folders.lent_conversations or "")]
        self._command += [str(folders.certificates or ""), device]
        self._kills = kills
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._jobs: queue.SimpleQueue[_FoldJob | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_JobDone | BaseException] = queue.SimpleQueue()
        self._prepared: dict[bytes, None] = {}
        self._fingerprints: dict[str, Mapping[str, Any]] = {}
        self._lines = [_ProcessThread(self, number) for number in range(count)]
        for line in self._lines:
            line.start()

    def run_all(self, folds: Sequence[Fold]) -> list[FoldResult]:
        """Run independent folds on all processes. Raises `LocalError` for a fold that kills its processes."""
        self._prepare(folds)
        for job in _batches(folds, len(self._lines)):
            self._jobs.put(job)
        results: dict[int, FoldResult] = {}
        while len(results) < len(folds):
            job, answer = self._next()
            results.update(zip(job.places, decode_results(answer), strict=True))
        return [results[place] for place in range(len(folds))]

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        """Return the fingerprint of this pool in these processes."""
        if pool not in self._fingerprints:
            self._fingerprints[pool] = self._ask(AskFingerprint(pool))
        return self._fingerprints[pool]

    def busy(self) -> list[int]:
        """Return the ids of the processes that are running folds; callable from any thread."""
        with self._lock:
            return [line.busy for line in self._lines if line.busy is not None]

    def close(self) -> None:
        """End all processes without waiting for their work."""
        self._closing.set()
        for line in self._lines:
            self._jobs.put(None)
            line.kill()
        for line in self._lines:
            line.join()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, folds: Sequence[Fold]) -> None:
        """Compile new code in one process; the others find the artefact."""
        for fold in folds:
            if fold.code.digest not in self._prepared and kind_of(fold.code).is_kept:
                self._prepared[fold.code.digest] = None
                self._ask(PrepareCode(fold.code, fold.address))

    def _ask(self, request: Request) -> Any:
        self._jobs.put(_FoldJob(request))
        return unpack_answer(self._next().answer)

    def _next(self) -> _JobDone:
        while True:
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=_LOOK_SECONDS)
                if isinstance(answer, BaseException):
                    self.close()
                    raise answer
                return answer


class _ProcessThread(threading.Thread):
    """A thread that owns a process, and starts another if it dies."""

    def __init__(self, owner: Processes, number: int) -> None:
        super().__init__(name=f"rota-process-{number}", daemon=True)
        self.busy: int | None = None  # the id of the process while it runs folds
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        owner = self._owner
        try:
            self._start_process()  # here, so that all of them load at the same time
            while (job := owner._jobs.get()) is not None and not owner._closing.is_set():
                self._do(job)
        except BaseException as error:  # raised again in the thread that waits for the answer
            owner._answers.put(error)
        if self._process is not None:
            self._bury(self._process)

    def kill(self) -> None:
        """Kill the process and its children; callable from any thread."""
        with self._owner._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return
            if sys.platform == "win32":
                process.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _do(self, job: _FoldJob) -> None:
        """Send a job and take the answer; if the process dies, put the job back for any process."""
        owner = self._owner
        process = self._process or self._start_process()
        if process is None:
            return
        delay_seconds = None
        if owner._kills is not None and job.places:
            with owner._lock:
                delay_seconds = owner._kills.delay_seconds()
        self.busy = process.pid if job.places else None
        answer = self._exchange(process, job, delay_seconds)
        self.busy = None
        if answer is not None:
            owner._answers.put(_JobDone(job, answer))
            return
        self._bury(process)
        if not owner._closing.is_set():
            self._hand_back(job, process, was_killed=delay_seconds is not None)

    def _exchange(self, process: subprocess.Popen[bytes], job: _FoldJob, delay_seconds: float | None) -> bytes | None:
        """Return the answer; None if the process died or was killed before it answered."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_frame(process.stdin, encode_request(job.request))
        except OSError:
            return None
        if delay_seconds is not None:
            self._owner._closing.wait(delay_seconds)
            self.kill()
            return None
        return read_frame(process.stdout)

    def _hand_back(self, job: _FoldJob, process: subprocess.Popen[bytes], *, was_killed: bool) -> None:
        if was_killed:
            self._owner._jobs.put(job)
            return
        with self._owner._lock:
            self._owner.deaths += 1
        folds = job.request.folds if isinstance(job.request, RunFolds) else ()
        if len(folds) > 1:
            for place, fold in zip(job.places, folds, strict=True):
                self._owner._jobs.put(_FoldJob(RunFolds((fold,)), (place,)))
            return
        if job.deaths + 1 < POISON_DEATHS_MAX:
            self._owner._jobs.put(job._replace(deaths=job.deaths + 1))
            return
        raise _poison(job.request, process.returncode)

    def _start_process(self) -> subprocess.Popen[bytes] | None:
        """Start a process and wait until it is ready; None while closing."""
        with self._owner._lock:  # so that `close` sees either no process or this one
            if self._owner._closing.is_set():
                return None
            process = self._process = _spawn(self._owner._command)
        assert process.stdout is not None
        if read_frame(process.stdout) is not None:
            return process
        self._bury(process)
        if self._owner._closing.is_set():
            return None
        raise ConfigError(
            f"a worker process ended with {process.returncode} before it could work (what it said is above): run "
            "`rota doctor`, or leave --workers out"
        )

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        self.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # closing flushes what the process never read
                stream.close()
        with self._owner._lock:
            self._process = None


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process outside the terminal's process group: Ctrl-C reaches only us, and we end it."""
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, creationflags=flags)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


def _batches(folds: Sequence[Fold], processes: int) -> list[_FoldJob]:
    """Divide folds into batches, the largest first."""
    tasks_max = sum(len(fold.tasks) for fold in folds) // (processes * _BATCHES_PER_PROCESS) + 1
    jobs: list[_FoldJob] = []
    places: list[int] = []
    tasks = size = 0
    for place in sorted(range(len(folds)), key=lambda place: -len(folds[place].tasks)):
        fold = folds[place]
        fold_bytes = len(fold.state or b"") + sum(len(task.payload) for task in fold.tasks)
        if places and (tasks + len(fold.tasks) > tasks_max or size + fold_bytes > ASSIGNMENT_BYTES_MAX):
            jobs.append(_job(folds, places))
            places, tasks, size = [], 0, 0
        places.append(place)
        tasks, size = tasks + len(fold.tasks), size + fold_bytes
    return [*jobs, _job(folds, places)] if places else jobs


def _job(folds: Sequence[Fold], places: list[int]) -> _FoldJob:
    return _FoldJob(RunFolds(tuple([folds[place] for place in places])), tuple(places))


def _poison(request: Request, returncode: int) -> RotaError:
    how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    again = f"{POISON_DEATHS_MAX} processes that had nothing else to do ended with {how}"
    if isinstance(request, RunFolds):
        (fold,) = request.folds
        turn = fold.tasks[0].turn
        more = f" to {fold.tasks[-1].turn}" if len(fold.tasks) > 1 else ""
        what = f"turn {turn}{more} of {fold.address} (lane seed {fold.lane_seed.hex()[:8]}) cannot be executed"
        return LocalError(f"{what}: {again}; verify up to there with --to", turn=turn, target=fold.address)
    if isinstance(request, PrepareCode):
        what = f"module {request.code.digest.hex()[:16]} of {request.address} cannot be compiled"
        return LocalError(f"{what}: {again}; run `rota doctor`", target=request.address)
    return LocalError(f"the fingerprint of pool {request.pool} is not known: {again}; run `rota doctor`")
