"""The operations of a client, shared by both shells: generators that wait by yielding. PURE.

An *exchange* yields a `Pause` to wait: the shell then moves frames until something has arrived or the time has come,
and resumes it. An exchange returns the result of its operation; a *stream* also yields results. The blocking client
runs exchanges in a loop, the asyncio client in a coroutine; neither knows what an operation does.

The shell passes in clock and random function. Every wait checks three things: whether the conversation has ended, the
deadline has passed, or no broker was ever heard.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from rota.client.options import MapOptions, SubmitOptions
from rota.client.questions import Questions
from rota.client.session import Key, Reply, Request, Session
from rota.client.texts import Texts
from rota.common.errors import Busy, NotReachable, RotaError, StorageFull
from rota.common.messages import Accepted, Answer, ResultItem, Submit, TaskRun
from rota.common.results import Decoder, Result, result_of

T = TypeVar("T")


class Pause(NamedTuple):
    """Move frames until `key` has arrived (None: until anything has) or until this time (None: no limit)."""

    until_ms: int | None
    key: Key | None = None


Exchange = Generator[Pause, None, T]
Stream = Generator[Pause | Result, None, None]
Ranges = tuple[tuple[int, int], ...]
"""Accepted tasks as (first seq, count), in the order of their payloads."""

BUSY_WAIT_MS: Final = 10  # before a refused input is sent again; exponential back-off with jitter
BUSY_WAIT_MS_MAX: Final = 1_000


class Timeouts(NamedTuple):
    """A client's timeouts: for an answer or outcome, and for the first sign of a broker."""

    answer_ms: int
    contact_ms: int


class Patience(NamedTuple):
    """How long to wait for outcomes: a deadline for all, and a timeout for each. None: no limit."""

    until_ms: int | None
    each_ms: int | None

    def from_now(self, now_ms: int) -> int | None:
        """Return the deadline for the next outcome."""
        return self.until_ms if self.each_ms is None else _earlier(self.until_ms, now_ms + self.each_ms)


class Exchanges:
    """The operations of one client."""

    def __init__(
        self,
        session: Session,
        questions: Questions,
        texts: Texts,
        decoder: Decoder,
        *,
        limits: Timeouts,
        now_ms: Callable[[], int],
        chance: Callable[[], float],
        not_reachable: Callable[[str], NotReachable],
    ) -> None:
        self._session = session
        self._questions = questions
        self._texts = texts
        self._decoder = decoder
        self._limits = limits
        self._now_ms = now_ms
        self._chance = chance
        self._not_reachable = not_reachable

    # --- requests and queries -------------------------------------------------------------------------

    def request(self, request: Request, deadline_ms: int) -> Exchange[Reply]:
        """Send a request and return its answer. Raises the broker's refusal."""
        session = self._session
        contact_ms = self._now_ms() + self._limits.contact_ms
        while session.is_full:
            self._check(session, deadline_ms, contact_ms, "earlier requests have no answers yet")
            yield Pause(deadline_ms)
        session.request(request, self._now_ms())
        try:
            while (reply := session.answer(request.number)) is None:
                self._check(session, deadline_ms, contact_ms, f"no answer to {type(request).__name__} came in time")
                until_ms = deadline_ms if session.is_heard else min(deadline_ms, contact_ms)
                yield Pause(until_ms, ("answer", request.number))
        except NotReachable as error:
            # Whether it took effect is unknown; the caller can find out with these two.
            error.fields.update(producer=session.producer, number=request.number)
            raise
        finally:
            session.forget(request.number)
        if isinstance(reply, StorageFull):
            reply.fields.update(producer=session.producer, number=request.number)  # unknown here too if it is pending
        if isinstance(reply, RotaError):
            raise reply
        return reply

    def request_patiently(self, request: Request, deadline_ms: int) -> Exchange[Reply]:
        """Send a request; while the broker is busy, wait and send it again under its number, until the deadline."""
        wait_ms = BUSY_WAIT_MS
        while True:
            try:
                return (yield from self.request(request, deadline_ms))
            except (Busy, StorageFull):
                until_ms = self._now_ms() + int(wait_ms * (0.5 + self._chance()))
                if until_ms >= deadline_ms:
                    raise
                yield from self.pause(until_ms)
                wait_ms = min(2 * wait_ms, BUSY_WAIT_MS_MAX)

    def question(self, what: str, arguments: dict[str, Any], deadline_ms: int) -> Exchange[Answer]:
        """Run a query and return the answer."""
        questions = self._questions
        contact_ms = self._now_ms() + self._limits.contact_ms
        number = questions.ask(what, arguments, self._now_ms())
        try:
            while (answer := questions.answer(number)) is None:
                self._check(questions, deadline_ms, contact_ms, f"no answer to the question {what!r} came in time")
                until_ms = deadline_ms if questions.is_heard else min(deadline_ms, contact_ms)
                yield Pause(until_ms, ("question", number))
        finally:
            questions.forget(number)
        if isinstance(answer, RotaError):
            raise answer
        return answer

    def pause(self, until_ms: int) -> Exchange[None]:
        """Wait, keeping the connections alive."""
        while self._now_ms() < until_ms:
            yield Pause(until_ms)

    # --- submitting -----------------------------------------------------------------------------------

    def submit(
        self, messages: Iterable[tuple[TaskRun, ...]], options: SubmitOptions, deadline_ms: int
    ) -> Exchange[Ranges]:
        """Submit messages of runs one after another. Each is atomic, and sent after the one before it was accepted.

        If one is refused, the error's field `accepted` has the ranges of those before it.
        """
        ranges: list[tuple[int, int]] = []
        tasks = 0
        for runs in messages:
            taken = self._session.take_number(None if options.number is None else options.number + len(ranges))
            request = Submit(
                taken, options.lane, runs, options.wait, options.now_ms, None, options.kind, options.deadline_ms
            )  # fmt: skip
            try:
                reply = yield from (self.request_patiently if options.block else self.request)(request, deadline_ms)
            except RotaError as error:
                error.fields["accepted"] = [list(one) for one in ranges]
                raise
            assert isinstance(reply, Accepted), reply
            ranges.append((reply.first_seq, reply.tasks))
            tasks += reply.tasks
            if options.sent is not None:
                options.sent(tasks)
        return tuple(ranges)

    # --- results --------------------------------------------------------------------------------------

    def outcome(self, seq: int, patience: Patience) -> Exchange[Result]:
        """Wait for the outcome of a task. Raises `TimeoutError`, or the broker's refusal (`Expired`)."""
        self._session.drop_refusals((seq,))
        return (yield from self._outcome(seq, patience))

    def _outcome(self, seq: int, patience: Patience) -> Exchange[Result]:
        session = self._session
        deadline_ms = patience.from_now(self._now_ms())
        contact_ms = self._now_ms() + self._limits.contact_ms
        while (found := session.take_result(seq)) is None:
            session.want(seq, 1, self._now_ms())
            self._check_result(deadline_ms, contact_ms, seq)
            yield Pause(deadline_ms if session.is_heard else _earlier(deadline_ms, contact_ms), ("result", seq))
        return self._result(found)

    def text_or_outcome(self, seq: int, shown: int, patience: Patience) -> Exchange[str | Result]:
        """Wait for more text of a generate task, of which `shown` characters are known, or for its outcome."""
        session, texts = self._session, self._texts
        session.drop_refusals((seq,))
        texts.follow(seq, shown)
        deadline_ms = patience.from_now(self._now_ms())
        contact_ms = self._now_ms() + self._limits.contact_ms
        while not (text := texts.take(seq)):
            if (found := session.take_result(seq)) is not None:
                texts.unfollow(seq)
                return self._result(found)
            session.want(seq, 1, self._now_ms())
            self._check_result(deadline_ms, contact_ms, seq)
            yield Pause(deadline_ms if session.is_heard else _earlier(deadline_ms, contact_ms), ("result", seq))
        return text

    def outcomes(self, ranges: Sequence[tuple[int, int]], patience: Patience) -> Stream:
        """Yield the outcomes of tasks in seq order."""
        for first_seq, tasks in ranges:
            self._session.drop_refusals(range(first_seq, first_seq + tasks))
            self._session.want(first_seq, tasks, self._now_ms())
        for first_seq, tasks in ranges:
            for seq in range(first_seq, first_seq + tasks):
                found = self._session.take_result(seq)  # of thousands most are there already
                yield self._result(found) if found is not None else (yield from self._outcome(seq, patience))

    def as_completed(self, ranges: Sequence[tuple[int, int]], patience: Patience) -> Stream:
        """Yield the outcomes of tasks as they arrive."""
        left = {seq: None for first_seq, tasks in ranges for seq in range(first_seq, first_seq + tasks)}
        self._session.drop_refusals(left)
        while left:
            for result in (yield from self.some_of(left, patience)):
                del left[result.seq]
                yield result

    def some_of(self, left: dict[int, None], patience: Patience) -> Exchange[list[Result]]:
        """Wait until at least one of these tasks has an outcome; return all that have arrived."""
        session = self._session
        deadline_ms = patience.from_now(self._now_ms())
        contact_ms = self._now_ms() + self._limits.contact_ms
        while not (here := session.arrived(left)):
            first = next(iter(left))
            if not session.is_pending(first):  # not requested yet, or another waiter has taken it
                for first_seq, tasks in session.missing(left):
                    session.want(first_seq, tasks, self._now_ms())
            self._check_result(deadline_ms, contact_ms, first)
            yield Pause(deadline_ms if session.is_heard else _earlier(deadline_ms, contact_ms))
        found = [session.take_result(seq) for seq in here]
        return [self._result(one) for one in found if one is not None]

    def map(
        self, batches: Callable[[int], tuple[TaskRun, ...]], options: MapOptions, answer_ms: int, patience: Patience
    ) -> Stream:
        """Submit the runs from `batches`, a function that returns the next batch, empty at the end; yield the outcomes.

        At most `in_flight` tasks, or one batch, are outstanding or not yet yielded. If the lane is full, it waits.
        """
        left: dict[int, None] = {}
        held: dict[int, Result] = {}  # arrived early, to be yielded in order
        order: list[int] = []  # seqs not yielded yet
        submit = SubmitOptions(lane=options.lane, block=True)
        done = submitted = 0
        more = True
        try:
            while more or left:
                while more and (not left or len(left) + len(held) + options.batch <= options.in_flight):
                    runs = batches(options.batch)
                    more = bool(runs)
                    if more:
                        ((first_seq, tasks),) = yield from self.submit([runs], submit, self._now_ms() + answer_ms)
                        left.update(dict.fromkeys(range(first_seq, first_seq + tasks)))
                        order.extend(range(first_seq, first_seq + tasks))
                        submitted += tasks
                if not left:
                    break
                arrived = yield from self.some_of(left, patience)
                for result in arrived:
                    del left[result.seq]
                    held[result.seq] = result
                done += len(arrived)
                if options.progress is not None:
                    options.progress(done, submitted)
                yield from _ready(held, order, options)
        finally:
            self._session.unwant(left)

    # --- inside ---------------------------------------------------------------------------------------

    def _result(self, found: ResultItem | RotaError) -> Result:
        if isinstance(found, RotaError):
            raise found
        return result_of(found, self._decoder)

    def _check(self, machine: Session | Questions, deadline_ms: int, contact_ms: int, what: str) -> None:
        now_ms = self._now_ms()
        if machine.failure is not None:
            raise machine.failure
        if not machine.is_heard and now_ms >= min(contact_ms, deadline_ms):
            raise self._not_reachable("no broker answers")
        if now_ms >= deadline_ms:
            if machine.is_silent(now_ms):
                raise self._not_reachable(what)
            raise TimeoutError(f"{what}, though the broker is there; it may still take effect")

    def _check_result(self, deadline_ms: int | None, contact_ms: int, seq: int) -> None:
        now_ms = self._now_ms()
        if self._session.failure is not None:
            raise self._session.failure
        if not self._session.is_heard and now_ms >= contact_ms:
            raise self._not_reachable("no broker answers")
        if deadline_ms is not None and now_ms >= deadline_ms:
            if self._session.is_silent(now_ms):
                raise self._not_reachable(f"task {seq} has no outcome yet, and there is no sign of the broker")
            raise TimeoutError(
                f"task {seq} has no outcome yet: ask again later, or give a longer timeout_s "
                "(math.inf waits as long as it takes)"
            )


def _ready(held: dict[int, Result], order: list[int], options: MapOptions) -> Generator[Result, None, None]:
    """Yield and remove the outcomes that are next in order."""
    if options.ordered:
        count = 0
        while count < len(order) and order[count] in held:
            count += 1
        seqs = order[:count]
        del order[:count]
    else:
        seqs = list(held)
        order.clear()
    for seq in seqs:
        result = held.pop(seq)
        yield result if options.return_failures else result.raise_if_failed()


def _earlier(one_ms: int | None, other_ms: int) -> int:
    return other_ms if one_ms is None else min(one_ms, other_ms)
