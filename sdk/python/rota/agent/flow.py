"""Flows: procedures that wait in the middle. See docs/SDK.md.

    from rota.agent import FlowContext

    async def flow(ctx: FlowContext) -> str:
        answer = await ctx.ask("planner", ctx.message.payload)
        return answer.text

A call of a flow gets one message after another, its own first, in one instance whose memory stays. So the event loop
just goes on: each message wakes what waits for it, and the step ends when nothing is left to do.
"""

from __future__ import annotations

import asyncio
import inspect
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

from rota.agent import model_calls
from rota.agent.context import Fail, Message, Verbs, check_ms
from rota.agent.event_loop import FlowLoop
from rota.agent.step import OUR_FILES, failed, is_library, seed
from rota.agent.tensors import Array, Tensor

Flow = Callable[["FlowContext"], Any]

NOTHING_COMES: Final = (
    "the flow waits for nothing that can come: await ctx.ask(...), ctx.sleep(...) or what came of them"
)
_WAITS_SHOWN: Final = 2
_WAITS_CHARS_MAX: Final = 200


NO_SLEEP: Final = "time.sleep does not wait in a flow: await ctx.sleep(milliseconds) or asyncio.sleep(seconds)"


class Answer(Message):
    """What came back: the reply to an ask, with `payload`, `text`, `value`, `tensors`, `sender` and `turn`."""

    __slots__ = ()


class AskFailed(Exception):
    """What was asked failed: `kind` and `message` are those of its failure (docs/AGENTS.md), `target` who was asked."""

    def __init__(self, kind: str, message: str, target: str = "") -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.target = target

    def __str__(self) -> str:
        said = f"{self.kind}: {self.message}"
        if not self.target:
            return said
        first, line_break, rest = said.partition("\n")
        return f"{first} (asked {self.target}){line_break}{rest}"


class Unawaited(asyncio.Future[Any]):
    """What an ask gives. Text is never made of it, since its answer was meant; `repr` shows it."""

    def __format__(self, _form: str) -> str:
        raise TypeError("Unawaited has no text")


class _Asked:
    """An ask without an answer: who waits for it, and what becomes of the answer."""

    __slots__ = ("future", "make", "target")

    def __init__(self, future: asyncio.Future[Any], target: str, make: Callable[[Answer], Any] | None) -> None:
        self.future = future
        self.target = target
        self.make = make

    def take(self, answer: Answer) -> None:
        if self.future.done():  # cancelled
            return
        if answer.kind == "failure":
            kind, message = answer.value
            self._refuse(AskFailed(kind, message, self.target))
            return
        try:
            self.future.set_result(answer if self.make is None else self.make(answer))
        except Exception as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        self.future.set_exception(error)
        self.future.exception()  # nobody has to await it


class FlowContext(Verbs):
    """The message of one call of a flow, and its verbs. Asks and sleeps begin when they are made, awaited or not."""

    __slots__ = ("_asked", "_behind_ms", "_given", "_loop", "_sleeps", "_timers", "_turn", "_waiting")

    def __init__(self, message: Message, loop: FlowLoop) -> None:
        """rota.agent makes contexts; an author only gets them."""
        super().__init__(message)
        self._loop = loop
        self._waiting: dict[int, _Asked | asyncio.TimerHandle] = {}  # by the place of the emit, in this step
        self._asked: dict[tuple[int, int], _Asked] = {}  # by turn and place
        self._timers: dict[bytes, asyncio.TimerHandle] = {}  # by the timer's payload, which is its number in the call
        self._sleeps = 0
        self._given = 0  # tensors of all messages
        self._behind_ms = 0  # by how much the message that runs is older than the call's clock; delays count from that
        self._begin(message)

    # --- verbs ----------------------------------------------------------------------------------------

    def reply(self, payload: Any = b"", tensors: Iterable[Tensor] = ()) -> None:
        """Set the answer of the call; the last call counts, or what the flow returns. An `Answer` as `payload` is given
        on as it came, with its tensors.
        """
        if isinstance(payload, Answer):
            payload, tensors = payload.payload, tuple(tensors) or payload.tensors
        super().reply(payload, tensors)

    def ask(
        self, target: str, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = (), deadline_ms: int = 0
    ) -> asyncio.Future[Answer]:
        """Ask an agent, a flow or a model; await the answer. Raises `AskFailed` there if what was asked failed, of kind
        `expired` if `deadline_ms` milliseconds (0: no deadline) went by without an answer.
        """
        return self._ask(target, payload, priority, tensors, deadline_ms, None)

    def sleep(self, delay_ms: int) -> asyncio.Future[None]:
        """Return after `delay_ms` milliseconds, when awaited. The call takes no room in a worker meanwhile. Raises
        `TypeError` for a fraction, since seconds were meant: `asyncio.sleep` takes them.
        """
        check_ms("delay_ms", delay_ms)
        future: asyncio.Future[None] = self._loop.create_future()
        handle = self._loop.call_later(delay_ms / 1000, _wake, future)
        future.add_done_callback(lambda _: handle.cancel())
        return future

    def generate(
        self, model: str, prompt: str | None = None, *, priority: int = 0, deadline_ms: int = 0, **options: Any
    ) -> asyncio.Future[model_calls.Generated]:
        """Have a language model continue a prompt, or answer `messages=[{"role": "user", "content": ...}]`; await the
        text. `options`: the fields of docs/PROTOCOL.md, such as `max_tokens`, `temperature`, `seed`, `output`, `tools`.
        """
        payload = model_calls.generate_payload(prompt, options)
        return self._ask_model(model, payload, (), priority, deadline_ms, model_calls.generated)

    def embed(
        self, model: str, texts: Iterable[str], *, truncate: bool = False, priority: int = 0, deadline_ms: int = 0
    ) -> asyncio.Future[list[array[Any]]]:
        """Have a model make a vector of each text, at most 1,024 of them; await the list of `array.array`."""
        payload = model_calls.texts_payload("embed", texts, {"truncate": truncate})
        return self._ask_model(model, payload, (), priority, deadline_ms, model_calls.vectors)

    def classify(
        self, model: str, texts: Iterable[str], *, top: int | None = None, truncate: bool = False, priority: int = 0,
        deadline_ms: int = 0,
    ) -> asyncio.Future[list[list[tuple[str, float]]]]:  # fmt: skip
        """Have a model label each text, at most 1,024 of them; await for each the list of (label, score), the best
        first, at most `top`.
        """
        payload = model_calls.texts_payload("classify", texts, {"truncate": truncate, "top": top})
        return self._ask_model(model, payload, (), priority, deadline_ms, model_calls.labels)

    def model(
        self, model: str, inputs: Mapping[str, model_calls.Input], *, outputs: Sequence[str] = (), priority: int = 0,
        deadline_ms: int = 0,
    ) -> asyncio.Future[dict[str, Tensor | Array]]:  # fmt: skip
        """Run a model of arrays; await its outputs by name. An input is a tensor, an `Array`, or (dtype, shape, data).
        `outputs`: the names of those that are wanted, if not all.
        """
        payload, tensors = model_calls.model_payload(inputs, outputs)
        return self._ask_model(model, payload, tensors, priority, deadline_ms, model_calls.outputs)

    def _ask_model(
        self, model: str, payload: Any, tensors: Iterable[Tensor], priority: int, deadline_ms: int,
        made_of: Callable[[Any, Sequence[Tensor]], Any],
    ) -> asyncio.Future[Any]:  # fmt: skip
        target = model_calls.target_of(model)

        def make(answer: Answer) -> Any:
            try:
                return made_of(answer.value, answer.tensors)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                wanted = f"a model answers {model_calls.ANSWERS[made_of.__name__]}"
                raise AskFailed(
                    "bad_answer", f"what {target} answered cannot be read: {error!r}; {wanted}", target
                ) from None

        return self._ask(target, payload, priority, tensors, deadline_ms, make)

    def _ask(
        self, target: str, payload: Any, priority: int, tensors: Iterable[Tensor], deadline_ms: int,
        make: Callable[[Answer], Any] | None,
    ) -> asyncio.Future[Any]:  # fmt: skip
        if check_ms("deadline_ms", deadline_ms) > 0:
            deadline_ms += self._behind_ms
        place = self._emit(target, payload, priority, "ask", tensors, deadline_ms)
        future = Unawaited(loop=self._loop)
        self._waiting[place] = _Asked(future, target, make)
        return future

    # --- for FlowCall ---------------------------------------------------------------------------------

    def begin_timer(self, delay_ms: int, handle: asyncio.TimerHandle) -> None:
        """Send a timer for a handle of the loop."""
        place = self._emit(self.message.address, self._sleeps, 0, "timer", (), self._behind_ms + delay_ms)
        self._sleeps += 1
        self._waiting[place] = handle

    def take(self, message: Answer) -> None:
        """Begin the step of a later message, and wake who waits for it."""
        self._emits = []
        self._begin(message)
        if message.reply_to is not None:
            asked = self._asked.pop((message.reply_to.asked_in, message.reply_to.emit), None)
            if asked is not None:
                asked.take(message)
        elif message.kind == "timer":
            handle = self._timers.pop(message.payload, None)
            if handle is not None:
                self._loop.fire(handle)

    def end_step(self, waits: str | None) -> bytes:
        """Return the output of this step. Timers that it has begun and cancelled are not sent."""
        kept: list[list[Any]] = []
        for place, fields in enumerate(self._emits):
            waiting = self._waiting.get(place)
            if isinstance(waiting, _Asked):
                self._asked[self._turn, len(kept)] = waiting
            elif waiting is not None:
                if waiting.cancelled():
                    continue
                self._timers[fields[1]] = waiting
            kept.append(fields)
        self._emits = kept
        self._waiting.clear()
        return self._output(None, waits)

    def can_wake(self) -> bool:
        """Return whether an answer or timer can come that somebody may wait for."""
        waiting = [*self._waiting.values(), *self._asked.values(), *self._timers.values()]
        return any(not (one.future.done() if isinstance(one, _Asked) else one.cancelled()) for one in waiting)

    def check(self) -> None:
        """Raise what `fail` has raised, also if the flow went on."""
        if self._failed is not None:
            raise self._failed

    def _begin(self, message: Message) -> None:
        self._turn = message.turn
        self._loop.now_ms = max(self._loop.now_ms, message.now_ms)
        self._behind_ms = self._loop.now_ms - message.now_ms
        self._given += len(message.tensors)
        self._new.begin(self._given)

    @property
    def tensors_given(self) -> int:
        """The number of tensors of all messages so far."""
        return self._given


class FlowCall:
    """One call of a flow, message after message."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._loop = FlowLoop(lambda delay_ms, handle: self._context().begin_timer(delay_ms, handle))
        self._made: tuple[FlowContext, asyncio.Task[Any]] | None = None

    def step(self, fields: Sequence[Any], values: tuple[Any, Any] = (None, None)) -> bytes:
        """Give the call its next message and return the output; see `step.step`."""
        try:
            return self._step(fields[1:], values[1])
        except BaseException as error:
            return failed(error)

    def close(self) -> None:
        """Drop what still waits. In the sandbox the instance ends instead."""
        for task in self._loop.unfinished():
            task.cancel()
        if not self._loop.is_closed():
            self._loop.run_forever()
            self._loop.close()

    def _context(self) -> FlowContext:
        assert self._made is not None, "the flow begins with its message"
        return self._made[0]

    def _step(self, fields: Sequence[Any], value: tuple[Any] | None) -> bytes:
        if self._made is None:
            message = Message(fields, value)
            seed(message.entropy)
            context = FlowContext(message, self._loop)
            main = self._loop.create_task(self._run(context))
            self._made = context, main
        else:
            context, main = self._made
            answer = Answer(fields, value, context.tensors_given)
            seed(answer.entropy)
            context.take(answer)
        self._loop.run_forever()
        context.check()
        if not main.done():
            waits = self._where()
            if not context.can_wake():
                raise Fail("waits_for_nothing", f"{NOTHING_COMES} (it is at {waits})")
            return context.end_step(waits)
        self._end_others()
        context.check()
        result = main.result()
        if result is not None:
            context.reply(result)
        return context.end_step(None)

    async def _run(self, context: FlowContext) -> Any:
        answer = self._flow(context)
        return await answer if inspect.isawaitable(answer) else answer

    def _end_others(self) -> None:
        """Cancel what still runs beside the flow that has returned, as `asyncio.run` does."""
        others = self._loop.unfinished()
        if others:
            for task in others:
                task.cancel()
            self._loop.run_forever()

    def _where(self) -> str:
        """Return the source lines at which the call waits: of the flow itself, then of tasks that it made."""
        tasks = self._loop.unfinished()
        shown: list[str] = []
        left = len(tasks)
        for task in tasks:
            left -= 1
            line = _line(task)
            if line and line not in shown:
                shown.append(line)
            if len(shown) == _WAITS_SHOWN:
                break
        return ", ".join(shown) + (f" and {left} more" if left else "")


def is_call(address: str) -> bool:
    """Return whether an address is that of a call of a flow: `name/~TURN`."""
    _, _, key = address.rpartition("/~")
    return key.isascii() and key.isdigit() and address.count("/") == 1


def _line(task: asyncio.Task[Any]) -> str:
    """Return file and line of the innermost frame of the author's at which a task waits; "" if there is none."""
    awaited: Any = task.get_coro()
    found: FrameType | None = None
    while awaited is not None:
        kind = type(awaited)
        if kind is CoroutineType:
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif kind is GeneratorType:
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        elif kind is AsyncGeneratorType:
            frame, awaited = awaited.ag_frame, awaited.ag_await
        else:  # a future
            break
        if frame is not None and not is_library(frame.f_code.co_filename):
            found = frame
    return "" if found is None else f"{_place(found.f_code)}:{found.f_lineno}"


def _place(code: CodeType) -> str:
    """Return the path of a source as its deploy names it; on the host, its name."""
    path = code.co_filename
    path = path[1:] if OUR_FILES.startswith("/rota/") else path.rsplit("/", 1)[-1]
    return path[-_WAITS_CHARS_MAX // _WAITS_SHOWN :]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
