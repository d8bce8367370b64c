"""A lane in this process: deploy, submit, step, inspect. Real executors, no sockets, only the caller's clock.

It is the broker's lane: it changes by the same records, through `Engine`, and the same functions check its inputs. So
the same inputs at the same positions give the same digest here and there. Missing are durability before each answer
(see keeper.py), other producers, and workers that die. Ctrl-C is handled in interrupts.py, threads in
engine/executors.py, files in places.py.
"""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, Unpack

from rota.broker import records
from rota.broker.deploys import check_deploy
from rota.broker.lane import RECORDED_POLICY
from rota.broker.modules import ModuleStore
from rota.broker.notes import Notes
from rota.broker.origins import request_digest
from rota.broker.recovery import facts
from rota.broker.requests import check_dead, check_submit
from rota.broker.results import result_item
from rota.broker.tasks import Task, caught_task
from rota.broker.world import World
from rota.common import limits as bounds
from rota.common import messages
from rota.common.arguments import check_model_name, check_name, checked, flag, several, whole
from rota.common.errors import BadPayload, CodeError, ConfigError, LocalError
from rota.common.results import Result, result_of
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, check_target
from rota.common.work import ASK, MODEL, TELL, Code, Limits, TensorRef
from rota.engine.engine import Engine
from rota.engine.executors import Executors
from rota.engine.folds import plan
from rota.gpu_worker.repository import Repository
from rota.host.model_versions import check_version
from rota.local.arguments import (
    LimitChanges,
    duration,
    limits_of,
    path_of,
    positive,
    seed_of,
)
from rota.local.calls import missing_text
from rota.local.endings import Endings
from rota.local.handles import LocalBatch, LocalHandle
from rota.local.interrupts import Interrupts
from rota.local.keeper import Keeper
from rota.local.places import LanePlace
from rota.local.tables import Table
from rota.local.texts import LocalTexts
from rota.local.turns import History, Turn, turn_table
from rota.local.view import View, number_of
from rota.runtimes.content import Extras, Parts, content_of
from rota.tensors.payloads import Payloads, check_targets, run_of

HISTORY_TURNS: Final = 100_000  # about a kilobyte each, plus their payloads

_PRODUCER: Final = "local"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _operation(method: Callable[Concatenate[LocalLane, _P], _R]) -> Callable[Concatenate[LocalLane, _P], _R]:
    """Wrap an operation of an open lane: one thread at a time, Ctrl-C delayed, records written at its end."""

    @functools.wraps(method)
    def guarded(lane: LocalLane, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        with lane._lock, lane._interrupts.held_back():
            if not lane._finalizer.alive:
                raise ConfigError(f"lane {lane.name!r} is closed: open another one")
            if lane._interrupts.forced:
                raise ConfigError(f"lane {lane.name!r} was cut off by a second Ctrl-C: open another one")
            try:
                return method(lane, *arguments, **named)
            finally:
                lane._keeper.flush()

    return guarded


class LocalLane(LocalTexts, Endings, View):
    """A lane with its own world, files and executors. Use it in a `with` block, or close it."""

    def __init__(
        self, name: str = "main", *, seed: bytes | int | None = None, policy: str = "derived",
        window: int = bounds.WINDOW_TASKS_DEFAULT, tasks_max: int = bounds.LANE_TASKS_DEFAULT,
        starvation_passes: int = bounds.STARVATION_PASSES_DEFAULT, paused: bool = False, now_ms: int = 0,
        models: Path | str | None = None, tensors: Path | str | None = None, device: str = "cpu",
        keep: Path | str | None = None, history: int = HISTORY_TURNS, bytes_max: int = bounds.LANE_BYTES_DEFAULT,
        agents_max: int = bounds.LANE_AGENTS_DEFAULT,
    ) -> None:  # fmt: skip
        """Open a lane; the settings are those of `rota lane open`.

        `seed`: 32 bytes or a number; default: the digest of the name. `now_ms`: where the lane's clock starts.
        `models`: a model folder; `tensors`: a tensor store; `device`: where models run, "cpu", "cuda" or "auto".
        `keep`: a new run folder that everything is written to. `history`: how many turns are remembered.
        """
        check_name(name, "a lane")
        duration(now_ms)
        positive("history", history)
        settings = messages.LaneSettings(
            policy, window, tasks_max, starvation_passes, seed_of(seed, name), bytes_max, agents_max
        )
        request = checked(messages.OpenLane(1, name, settings, paused, None), ConfigError)
        self.name = name
        self._lock = threading.RLock()
        self._place = LanePlace(path_of("keep", keep), path_of("models", models), path_of("tensors", tensors))
        try:
            self._keeper = Keeper(self._place, in_file=keep is not None)
        except BaseException:
            self._place.close()
            raise
        self._executors = Executors(self._place.folders(), device=device)
        self._finalizer = weakref.finalize(self, _release, self._executors, self._keeper, self._place)
        self._interrupts = Interrupts(self._executors.interrupt, self._executors.resume)
        self._payloads = Payloads(self._place.tensors)
        self._history = History(history, self._payloads, self._executors.run)
        self._ready: deque[Turn] = deque(maxlen=history)  # retired, but not yet returned by `step` or `run`
        self._next_number = 1
        self._answered: list[Task] = []  # since the last turns that were kept
        self._orphans: deque[int] = deque()
        self._engine = Engine(World(results_max=0), self._executors, self._keeper.take, now_ms, self._heed)
        self._engine.apply(records.Epoch(1, now_ms, facts()))
        self._engine.apply(records.Opened(name, now_ms, self._origin(request), request.settings, paused, ()))
        self._lane = self._engine.world.lanes[name]
        self._keeper.flush()

    # --- inputs ---------------------------------------------------------------------------------------

    @_operation
    def deploy(
        self, name: str, module: Path | str | bytes | None = None, kind: str | None = None, *, reuse: bool = False,
        exports: Mapping[str, str] | None = None, recorded: bool = False, limits: Limits | None = None,
        args: Sequence[str] = (), env: Mapping[str, str] | None = None, files: Mapping[str, Any] | None = None,
        with_: Sequence[Any] = (), entry: str = "", runtime: str = "", flow: bool | None = None,
        **changes: Unpack[LimitChanges],
    ) -> dict[str, Any]:  # fmt: skip
        """Bind `name` to code and return the facts about it; tasks issued from now on run it.

        `module`: a source file or folder, or a WASM file or its bytes; `kind` is found by what it is. The options are
        those of the client. For kind "model" (or a name `model:NAME`): an ONNX file or a folder with model.onnx, which
        is added to the model folder, or the digest of a model there; default: the newest of that name, or the version
        in `NAME@VERSION`. `flow`: each task is a call that may wait; None: a source that has a `flow` and no `agent` is
        one. `recorded`: accept results that a repetition might not give again. Limits can be given as
        `Limits` or by name (`fuel=1_000_000`). Raises `CodeError` for code that cannot run.
        """
        code_limits = limits_of(limits, changes)
        if not isinstance(name, str):
            check_name(name, "code")
        parts: Parts = {}
        if kind == MODEL or name.startswith(MODEL_PREFIX):
            name = check_model_name(name)
            code = Code(self._model(name, module), MODEL, limits=code_limits, recorded=recorded)
            name = MODEL_PREFIX + name
        else:
            check_name(name, "an agent")
            if module is None:
                raise CodeError(f"{name}: give a file, a folder, or the bytes of a module")
            if exports is not None and not isinstance(exports, Mapping):
                raise CodeError(
                    f"exports={shown(exports)}: give a map of roles (`call`, ...) to the module's own names"
                )
            if flow is not None:
                flag("flow", flow)
            extras = Extras(args=args, env=env or {}, files=files or {}, with_=with_, entry=entry, runtime=runtime)
            content = content_of(module, kind, extras, exports or {}, flow)
            pairs = tuple((exports or {}).items())
            code = Code(content.digest, content.kind, reuse, pairs, code_limits, flow=content.flow)
            parts = content.parts
        request = checked(messages.Deploy(self._next_number, self.name, name, code, True), CodeError)
        ModuleStore(self._place.run.modules).bring(name, request.code, parts)
        check_deploy(self._lane, name, request.code)
        info = dict(self._executors.prepare(request.code, name))
        self._apply(records.Deployed(*self._head(), self._origin(request), name, request.code))
        return {**info, "digest": code.digest}

    @_operation
    def submit(
        self, target: str, payload: Any = b"", *, priority: int = 0, tensors: Sequence[TensorRef] = (),
        deadline_ms: int = 0,
    ) -> LocalHandle:  # fmt: skip
        """Submit one task. The payload is as for a client; `tensors` needs one of bytes or text.

        `deadline_ms`: it fails as `expired` if it has no answer when the clock has moved so far; 0: no deadline.
        """
        return self._submit_one(TELL, target, payload, priority, tensors, deadline_ms)

    @_operation
    def ask(
        self, target: str, payload: Any = b"", *, priority: int = 0, tensors: Sequence[TensorRef] = (),
        deadline_ms: int = 0,
    ) -> LocalHandle:  # fmt: skip
        """Ask an agent or flow: as `submit`, with a message of kind `ask`. `result` is the answer in the end."""
        return self._submit_one(ASK, target, payload, priority, tensors, deadline_ms)

    @_operation
    def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], *, priority: int = 0, deadline_ms: int = 0
    ) -> LocalBatch:
        """Submit many tasks in as few inputs as a client would send messages, usually one. Each input is atomic.

        `targets` is one for all, or one per payload.
        """
        return self._submit_all(TELL, targets, payloads, priority, deadline_ms)

    @_operation
    def ask_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], *, priority: int = 0, deadline_ms: int = 0
    ) -> LocalBatch:
        """Ask many: as `submit_many`, with messages of kind `ask`."""
        return self._submit_all(ASK, targets, payloads, priority, deadline_ms)

    @_operation
    def retry(self, turn: int | LocalHandle) -> LocalHandle:
        """Run a dead task again, as a new one."""
        return LocalHandle(self, self._submit((), retry_of=number_of(turn)))

    @_operation
    def cancel(self, turn: int | LocalHandle) -> bool:
        """Cancel a task that has no answer yet; return whether it was cancelled. What a call asked ends with it."""
        number = self._stamped(turn)
        ends = self._engine.world.decision(number)
        if ends is None:
            return False
        origin = self._origin(messages.Cancel(self._next_number, number))
        self._end(records.Cancelled(*self._head(), origin, number, ends))
        return True

    @_operation
    def pause(self) -> None:
        """Issue no more tasks; those in the line go on."""
        self._set_paused(True)

    @_operation
    def release(self) -> None:
        """Issue tasks again."""
        self._set_paused(False)

    @_operation
    def set_window(self, window: int) -> None:
        """Change how many issued tasks the lane can hold."""
        request = checked(messages.SetWindow(self._next_number, self.name, window), LocalError)
        self._apply(records.WindowSet(*self._head(), self._origin(request), window))

    @_operation
    def drop_dead(self, *turns: int | LocalHandle) -> int:
        """Drop these dead letters, or all of them; return how many there were. Raises `UnknownTask`."""
        request = messages.DeadDrop(self._next_number, self.name, tuple(map(number_of, turns)))
        check_dead(self._lane, *request.seqs)
        before = len(self._lane.dead)
        self._apply(records.DeadDropped(*self._head(), self._origin(request), request.seqs))
        return before - len(self._lane.dead)

    @_operation
    def advance(self, ms: int) -> int:
        """Advance the clock and fire the timers and deadlines that come due, each at its time; return how many.

        Nothing is executed: the tasks of fired timers wait in the line. See `run_for` for timers that set timers.
        """
        return self._advance_to(duration(self.now_ms + duration(ms)))

    # --- running --------------------------------------------------------------------------------------

    @_operation
    def step(self) -> Turn | None:
        """Execute the next task in line and return the turn that retired; None if there is nothing to do."""
        turns = self._run(1)
        return turns[0] if turns else None

    @_operation
    def run(self, turns: int | None = None) -> Table[Turn]:
        """Execute until nothing is left to do or `turns` turns have retired; return at most the newest `history`.

        Timers that are not due stay: see `advance` and `run_for`.
        """
        return turn_table(self._run(turns))

    @_operation
    def run_for(self, ms: int) -> Table[Turn]:
        """Run for `ms` of the lane's clock: whenever nothing is left to do, advance to the next timer or deadline."""
        end_ms = duration(self.now_ms + duration(ms))
        found = deque(self._run(None), maxlen=self._ready.maxlen)
        while not self._interrupts.came:
            due_ms = self._due_ms()
            if due_ms is None or due_ms > end_ms:
                break
            self._advance_to(due_ms)
            found += self._run(None)
        if not self._interrupts.came:
            self._advance_to(end_ms)
        return turn_table(found)

    @_operation
    def result(self, turn: int | LocalHandle) -> Result:
        """Return a task's result, of a postponed one its answer; runs the lane until it has one.

        Raises `TaskFailed` if the task failed, `LocalError` if nothing is left to run and it has none.
        """
        return self._outcome(turn).raise_if_failed()

    @_operation
    def outcome(self, turn: int | LocalHandle) -> Result:
        """Return a task's outcome, which may be a failure; runs the lane until it has one."""
        return self._outcome(turn)

    @_operation
    def outcomes(self, turns: Iterable[int | LocalHandle]) -> list[Result]:
        """Return the outcomes of several tasks; runs the lane until all have one."""
        numbers = [self._stamped(turn) for turn in several("turns", turns)]
        if numbers:
            self._outcome(numbers[-1])
        with _collector_at_rest():
            return [self._outcome(number) for number in numbers]

    # --- the run file and the end ---------------------------------------------------------------------

    @_operation
    def save(self, folder: Path | str, *, models: bool = False) -> Path:
        """Write everything so far into a new run folder, for `rota verify` and the other tools, and return its path.

        With `models`, the files of the deployed models are copied too.
        """
        path = path_of("folder", folder)
        if path is None:
            raise ConfigError("folder=None: give the path of a new run folder")
        self._keeper.save(path, models=flag("models", models))
        return path

    def close(self) -> None:
        """Release engines and files; a lane without `keep` leaves nothing behind. May be called again."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> LocalLane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------------

    def _submit_one(
        self, kind: str, target: str, payload: Any, priority: int, tensors: Sequence[TensorRef], deadline_ms: int
    ) -> LocalHandle:
        check_target(target)
        whole("priority", priority, bounds.PRIORITY_MIN, bounds.PRIORITY_MAX, BadPayload)
        if not isinstance(tensors, Sequence) or not all(isinstance(ref, TensorRef) for ref in tensors):
            raise BadPayload(f"tensors={shown(tensors)}: give a list of TensorRef")
        packed, references = self._payloads.pack(target, payload)
        if tensors and references:
            raise BadPayload("this payload has tensors of its own: give `tensors` only with a payload of bytes or text")
        run = run_of(target, [(packed, tuple(tensors) or references)], priority)
        return LocalHandle(self, self._submit((run,), kind=kind, deadline_ms=deadline_ms))

    def _submit_all(
        self, kind: str, targets: str | Sequence[str], payloads: Iterable[Any], priority: int, deadline_ms: int
    ) -> LocalBatch:
        check_targets(targets)
        whole("priority", priority, bounds.PRIORITY_MIN, bounds.PRIORITY_MAX, BadPayload)
        turns: list[int] = []
        for runs in self._payloads.messages(targets, several("payloads", payloads), priority):
            first_turn = self._submit(runs, kind=kind, deadline_ms=deadline_ms)
            turns += range(first_turn, first_turn + len(runs[0].payloads))
        return LocalBatch(self, turns)

    def _submit(
        self,
        runs: tuple[messages.TaskRun, ...],
        retry_of: int | None = None,
        kind: str = TELL,
        deadline_ms: int = 0,
    ) -> int:
        """Apply a submit and return its first turn."""
        whole("deadline_ms", deadline_ms, 0, bounds.DELAY_MS_MAX, BadPayload)
        request = messages.Submit(self._next_number, self.name, runs, False, self.now_ms, retry_of, kind, deadline_ms)
        check_submit(self._lane, request)
        named = [ref for run in runs for ref in run.named_tensors]
        for ref in dict.fromkeys(named):
            self.tensors.touch(ref)
        first_turn = self._lane.next_turn
        origin = self._origin(request)
        self._apply(records.Submitted(*self._head(), origin, first_turn, runs, retry_of, kind, deadline_ms))
        return first_turn

    def _set_paused(self, paused: bool) -> None:
        request = messages.SetPaused(self._next_number, self.name, paused)
        self._apply(records.PauseSet(*self._head(), self._origin(request), paused))

    def _model(self, name: str, module: Path | str | bytes | None) -> bytes:
        repository = Repository(self._place.models)
        if module is not None and not isinstance(module, bytes | str | Path):
            raise CodeError(f"module={shown(module)}: give an ONNX file, its folder, or a model's digest")
        if module is None:
            return repository.named(name).digest
        base = name.partition("@")[0]
        found = repository.find(module) if isinstance(module, bytes) else repository.add(Path(module), base)
        check_version(repository.root, name, found.digest)
        return found.digest

    def _origin(self, request: messages.FrontendRequest) -> records.Origin:
        origin = records.Origin(_PRODUCER, self._next_number, request_digest(request))
        self._next_number += 1
        return origin

    def _apply(self, record: records.Record) -> None:
        self._keep_turns(self._engine.apply(record).retired)

    def _heed(self, notes: Notes) -> None:
        """Take the answers that an effect of a record gave, which may come before their turns are kept."""
        self._answered += notes.answered
        self._orphans += notes.orphans

    def _keep_turns(self, retired: Iterable[Task]) -> None:
        self._ready += self._history.retired(retired)
        self._history.answered(self._answered)
        self._answered.clear()

    def _run(self, turns_max: int | None) -> list[Turn]:
        """Return turns as they retire, those first that retired together with earlier ones."""
        if turns_max is not None:
            whole("turns", turns_max, 0)
        found: deque[Turn] = deque(maxlen=self._ready.maxlen)
        count = 0
        while turns_max is None or count < turns_max:
            left = self._lane.window if turns_max is None else turns_max - count
            if not self._ready and not self._execute(left):
                break
            while self._ready and (turns_max is None or count < turns_max):
                found.append(self._ready.popleft())
                count += 1
        return list(found)

    def _execute(self, tasks_max: int) -> bool:
        """Execute the first tasks in line; False if there is nothing to do, or Ctrl-C came."""
        if self._interrupts.came:
            return False
        lane = self._lane
        if not lane.line_count:
            self._advance_to(self.now_ms)  # timers that were due when they were set
        # In a recorded lane the order of completion counts: one at a time, it is that of the line.
        planned = plan(lane, 1 if lane.settings.policy == RECORDED_POLICY else tasks_max)
        if not planned:
            return bool(self._ready)
        with _collector_at_rest():
            retired, stopped = self._engine.execute(planned)
            self._history.executed(lane, planned)
            self._keep_turns(retired)
            self._keep_turns(self._engine.judge(stopped))
        self._keeper.flush_many()
        return True

    def _outcome(self, turn: int | LocalHandle) -> Result:
        number = self._stamped(turn)
        found = self._history.find(number)
        if found is None or found.answer is None:
            caught = self._caught(number)
            if caught is not None:
                return caught
            self._run_until(number)
            if self._interrupts.came:
                raise KeyboardInterrupt
            found = self._history.find(number)
        return self._remembered(number, found).as_result()

    def _caught(self, number: int) -> Result | None:
        """Return the outcome of a task cancelled while it waited, which is final before the task is issued."""
        run = self._engine.world.runs.find(number)
        failure = None if run is None else (run.verdicts or {}).get(number - run.first_seq)
        if run is None or failure is None:
            return None
        return result_of(result_item(caught_task(run, number - run.first_seq, failure)), self._payloads)

    def _run_until(self, number: int) -> None:
        """Run until a task has its answer, and no further."""
        lane = self._lane
        while (waits := self._is_open(number)) or number in lane.open:
            self._ready.clear()  # what is ready from the round before is no progress
            # Which turn gives a postponed one its answer is not known before: one at a time.
            places = enumerate(lane.line_by_turn, 1) if waits else ()
            place = next((place for place, turn in places if turn == number), lane.window if waits else 1)
            if not self._execute(place):
                break
        self._ready.clear()
        if not self._interrupts.came and (self._is_open(number) or number in lane.open):
            raise LocalError(self._why_open(number), turn=number)

    def _why_open(self, number: int) -> str:
        """Return why a task has no answer although nothing is left to run."""
        why = "the lane is paused: release it" if self._lane.paused else "nothing is left to run"
        if self._is_open(number):
            return f"turn {number} has no outcome, and {why}"
        return f"turn {number} has no answer, and {why}: {missing_text(self._lane, number)}"


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Switch the cycle collector off in the block: tasks have no cycles, and collecting took a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _release(executors: Executors, keeper: Keeper, place: LanePlace) -> None:
    executors.close()
    keeper.close()
    place.close()
