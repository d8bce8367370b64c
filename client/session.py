"""The producer's half of the frontend conversation, as a state machine: requests, results, reconnects. PURE.

Messages received, ticks and calls come in; frames to send, answers and results come out. Time (milliseconds of any
monotonic clock), producer and first number are arguments; sockets belong to the shell, client.py or aio.py. What it
does on each event:

    call           the frame of a request, after a Hello if the last is older than HELLO_MS
    tick           a Hello every HELLO_MS while something is outstanding; a new connection after SILENCE_MS;
                   a request for everything outstanding after RENEW_MS
    Welcome        if the boot has changed: a new connection
    Accepted       an answer; the results of a Submit with `wait` are outstanding from here on
    Results        outstanding ones are kept, others dropped, so that each result is delivered once
    new connection Hello, all unanswered requests with their old numbers, Await for all outstanding results

A request is sent again until it is answered or forgotten; its number makes that idempotent. docs/PROTOCOL.md describes
the same from the outside; change it with this file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from rota.common.errors import LocalError, NotGreeted, ProtocolError, RotaError, error_from_wire
from rota.common.limits import RUN_TASKS_MAX
from rota.common.messages import (
    Accepted,
    Answer,
    Await,
    Cancel,
    DeadDrop,
    Deploy,
    Drain,
    Hello,
    Keep,
    OpenLane,
    Refused,
    ResultItem,
    Results,
    SetPaused,
    SetWindow,
    Submit,
    Welcome,
)
from rota.common.wire import TO_PRODUCERS, decode, encode

HELLO_MS: Final = 1_000  # as workers do (limits.HEARTBEAT_MS)
SILENCE_MS: Final = 3_000  # three Hellos without a Welcome
RENEW_MS: Final = 60_000  # a connection may break and heal unnoticed, losing messages: ask for everything again
AWAY_MS: Final = 5_000  # after so long without `tick` the broker may have dropped us as a slow reader
PAIR_NUMBERS_FROM: Final = 1 << 52  # numbers of requests other than inputs; inputs have lower ones
RESULTS_HELD_MAX: Final = 200_000  # results not taken yet; older ones are dropped and can be awaited again
RESULTS_HELD_BYTES: Final = 256 << 20
REJECTED_MAX: Final = 2  # retries of a request because the broker asked for a Hello first
OPEN_REQUESTS_MAX: Final = 1_024  # well below NUMBERS_KEPT_MAX, so that a resent number is never stale

Input = Submit | OpenLane | Deploy | Cancel | SetPaused | SetWindow | DeadDrop
Request = Input | Drain | Keep
Reply = Accepted | Answer


Key = tuple[str, int]
"""What an exchange can wait for: ("answer", number), ("result", seq), ("question", number)."""

ALL: Final[Key] = ("all", 0)  # wakes every waiter: the first sign of a broker, or the end of the conversation


class Output(NamedTuple):
    """What the shell must do now: if `reconnect`, drop the connection with its unsent frames and make a new one; then
    send the frames in order.
    """

    reconnect: bool
    frames: tuple[bytes, ...]


class _Open(NamedTuple):
    """An unanswered request."""

    frame: bytes
    waits: bool  # a Submit whose results are wanted
    rejected: int = 0  # how often it was refused with `hello_first`


class Session:
    """One producer's conversation with the broker, across reconnects."""

    def __init__(self, producer: str, first_number: int) -> None:
        assert 0 < first_number < PAIR_NUMBERS_FROM, first_number
        self.producer = producer
        self.boot: int | None = None
        self.failure: RotaError | None = None  # set when the conversation has ended, e.g. for another protocol version
        self._next_number = first_number
        self._next_pair = PAIR_NUMBERS_FROM
        self._open: dict[int, _Open] = {}
        self._open_waits = 0  # how many of those are submits whose results are wanted
        self._news: list[Key] = []
        self._answers: dict[int, Reply | RotaError] = {}
        self._pending: dict[int, None] = {}  # seqs of outstanding results, in the order of their requests
        self._awaits: dict[int, tuple[int, int]] = {}
        self._results: OrderedDict[int, ResultItem | RotaError] = OrderedDict()  # the oldest are dropped first
        self._results_bytes = 0
        self._early: dict[int, ResultItem] = {}  # results that arrived before their Accepted
        self._out: list[bytes] = []
        self._reconnect = False
        self._hello_ms: int | None = None  # when the last Hello was sent
        self._silent_since_ms: int | None = None  # when the oldest unanswered Hello was sent
        self._tick_ms: int | None = None
        self._renewed_ms: int | None = None  # when everything outstanding was last requested, or first became so

    # --- calls ----------------------------------------------------------------------------------------

    def take_number(self, wanted: int | None = None) -> int:
        """Return the number of the next input: the wanted one, or one more than the highest so far."""
        number = self._next_number if wanted is None else wanted
        if type(number) is not int or not 0 < number < PAIR_NUMBERS_FROM:
            raise LocalError(f"number {number} is not in 1..{PAIR_NUMBERS_FROM - 1}", number=number)
        if number in self._open:
            raise LocalError(f"number {number} is in use: its answer has not come yet", number=number)
        self._next_number = max(self._next_number, number + 1)
        return number

    def take_pair_number(self) -> int:
        """Return a number for a request that is not an input, to match its answer."""
        self._next_pair += 1
        return self._next_pair

    def request(self, request: Request, now_ms: int) -> None:
        """Send a request until it is answered. Take the answer with `answer`, or drop the request with `forget`."""
        assert request.number not in self._open, f"number {request.number} is in use"
        assert not self.is_full
        self._greet_if_due(now_ms)
        opened = _Open(encode(request), type(request) is Submit and request.wait)
        self._open[request.number] = opened
        self._open_waits += opened.waits
        self._out.append(opened.frame)

    def answer(self, number: int) -> Reply | RotaError | None:
        """Return and remove the answer to a request; None while there is none."""
        return self._answers.pop(number, None)

    def forget(self, number: int) -> None:
        """Drop a request. Whether it took effect is unknown; sending the same number and content again tells."""
        self._close(number)
        self._answers.pop(number, None)

    def want(self, first_seq: int, tasks: int, now_ms: int) -> None:
        """Ask for the results of `tasks` tasks from `first_seq` on, except those that are here or already requested."""
        missing = [
            seq for seq in range(first_seq, first_seq + tasks) if seq not in self._results and seq not in self._pending
        ]
        if missing:
            self._greet_if_due(now_ms)
            self._pending.update(dict.fromkeys(missing))
            self._await(_ranges(missing))

    def unwant(self, seqs: Iterable[int]) -> None:
        """Drop results: those that are here, and those that will arrive."""
        for seq in seqs:
            self._pending.pop(seq, None)
            self.take_result(seq)

    def take_result(self, seq: int) -> ResultItem | RotaError | None:
        """Return and remove the result of a task, or its refusal; None while there is none."""
        found = self._results.pop(seq, None)
        if found is not None:
            self._results_bytes -= _size(found)
        return found

    def drop_refusals(self, seqs: Iterable[int]) -> None:
        """Drop refusals not taken yet, before asking again: the results may exist now."""
        for seq in seqs:
            if isinstance(self._results.get(seq), RotaError):
                self.take_result(seq)

    def arrived(self, wanted: Mapping[int, None]) -> list[int]:
        """Return those of the wanted seqs for which `take_result` returns something."""
        if len(self._results) < len(wanted):
            return [seq for seq in self._results if seq in wanted]
        return [seq for seq in wanted if seq in self._results]

    def is_pending(self, seq: int) -> bool:
        """Return whether the result of a task was requested and has not arrived."""
        return seq in self._pending

    def missing(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Return the ranges of the wanted seqs that are neither here nor requested."""
        return list(_ranges(seq for seq in wanted if seq not in self._pending and seq not in self._results))

    # --- the shell ------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now_ms: int) -> None:
        """Process one frame. Check answers, results and `output` afterwards."""
        try:
            message = decode(frame, TO_PRODUCERS)
        except ProtocolError as error:
            self.end(error)
            return
        self._silent_since_ms = None
        if isinstance(message, Results):
            self._on_results(message.items)
        elif isinstance(message, Welcome):
            self._on_welcome(message, now_ms)
        elif isinstance(message, Refused):
            self._on_refused(message, now_ms)
        elif isinstance(message, Accepted | Answer):
            self._on_reply(message)

    def end(self, error: RotaError) -> None:
        """End the conversation: all open and later requests get this error."""
        self.failure = error
        self._news.append(ALL)

    def tick(self, now_ms: int) -> None:
        """Advance the time. The shell must read its socket first, so that arrived frames count as signs of life."""
        away = self._tick_ms is not None and now_ms - self._tick_ms > AWAY_MS
        self._tick_ms = now_ms
        if not self.is_busy:
            self._renewed_ms = None
            return
        if self._renewed_ms is None:
            self._renewed_ms = now_ms
        if self._silent_since_ms is not None and now_ms - self._silent_since_ms >= SILENCE_MS:
            self._start_over(now_ms)
            return
        self._greet_if_due(now_ms)
        if now_ms - self._renewed_ms >= RENEW_MS:
            self._ask_again(now_ms)
        elif away and self._pending:
            self._await(_ranges(sorted(self._pending)))

    def output(self) -> Output:
        """Return and clear what the shell must do now."""
        output = Output(self._reconnect, tuple(self._out))
        self._reconnect = False
        self._out.clear()
        return output

    def take_news(self) -> list[Key]:
        """Return the keys that arrived since the last call; their waiters can go on."""
        news, self._news = self._news, []
        return news

    def next_tick_ms(self) -> int | None:
        """Return when `tick` has something to do; None if nothing is outstanding."""
        if not self.is_busy or self._hello_ms is None:
            return None
        due_ms = self._hello_ms + HELLO_MS
        return due_ms if self._silent_since_ms is None else min(due_ms, self._silent_since_ms + SILENCE_MS)

    @property
    def is_busy(self) -> bool:
        """Whether an answer or a result is outstanding."""
        return bool(self._open or self._pending)

    @property
    def is_full(self) -> bool:
        """Whether `request` has to wait for answers to earlier requests."""
        return len(self._open) >= OPEN_REQUESTS_MAX

    def is_silent(self, now_ms: int) -> bool:
        """Return whether a Welcome is overdue."""
        return self._silent_since_ms is not None and now_ms - self._silent_since_ms >= 2 * HELLO_MS

    @property
    def is_heard(self) -> bool:
        """Whether a broker has ever answered."""
        return self.boot is not None

    # --- inside ---------------------------------------------------------------------------------------

    def _on_welcome(self, message: Welcome, now_ms: int) -> None:
        known, self.boot = self.boot, message.boot
        if known is None:
            self._news.append(ALL)
        if known not in (None, message.boot) and self.is_busy:
            # The socket reconnected to the new broker by itself, but what was sent to the old one is lost.
            self._start_over(now_ms)

    def _on_reply(self, message: Reply) -> None:
        opened = self._open.get(message.number)
        if opened is None:
            return
        self._answers[message.number] = message
        self._news.append(("answer", message.number))
        if opened.waits and isinstance(message, Accepted):
            for seq in range(message.first_seq, message.first_seq + message.tasks):
                early = self._early.pop(seq, None)
                if isinstance(self._results.get(seq), RotaError):
                    self.take_result(seq)  # an earlier request was refused, before the task existed
                if early is not None:
                    self._keep(seq, early)
                elif seq not in self._results:
                    self._pending[seq] = None
        if self._close(message.number) and opened.waits and isinstance(message, Accepted):
            # The results go to the connection of this answer, which may be closed, since a resend was queued.
            last_seq = message.first_seq + message.tasks
            self._await(_ranges(seq for seq in range(message.first_seq, last_seq) if seq in self._pending))

    def _on_refused(self, message: Refused, now_ms: int) -> None:
        error = error_from_wire(message.code, message.message, message.fields)
        opened = self._open.get(message.number)
        if isinstance(error, NotGreeted) and (opened is None or opened.rejected < REJECTED_MAX):
            # The socket reconnected to a new broker by itself, and our request arrived before our Hello.
            if opened is not None:
                self._open[message.number] = opened._replace(rejected=opened.rejected + 1)
            self._start_over(now_ms)
        elif opened is not None:
            self._close(message.number)
            self._answers[message.number] = error
            self._news.append(("answer", message.number))
        elif message.number in self._awaits or "seqs" in message.fields:
            self._on_await_refused(message, error)
        elif isinstance(error, ProtocolError):
            self.end(error)

    def _on_await_refused(self, message: Refused, error: RotaError) -> None:
        """Handle results that are no longer kept: the refusal of an Await, or of an earlier Submit with `wait`."""
        first_seq, tasks = self._awaits.get(message.number, (0, 0))
        named = message.fields.get("seqs")
        for seq in named if isinstance(named, list) else range(first_seq, first_seq + tasks):
            if type(seq) is int and seq in self._pending:
                del self._pending[seq]
                self._keep(seq, error)

    def _on_results(self, items: Iterable[ResultItem]) -> None:
        for item in items:
            if item.seq in self._pending:
                del self._pending[item.seq]
                self._keep(item.seq, item)
            elif self._open_waits and item.seq not in self._results:
                self._early[item.seq] = item
        if not self._pending:
            self._awaits.clear()

    def _keep(self, seq: int, found: ResultItem | RotaError) -> None:
        self._results[seq] = found
        self._news.append(("result", seq))
        self._results_bytes += _size(found)
        while len(self._results) > RESULTS_HELD_MAX or (
            self._results_bytes > RESULTS_HELD_BYTES and len(self._results) > 1
        ):
            self.take_result(next(iter(self._results)))

    def _close(self, number: int) -> bool:
        """Remove a request; return whether its frame was still queued, to be sent again."""
        opened = self._open.pop(number, None)
        if opened is None:
            return False
        kept = [frame for frame in self._out if frame is not opened.frame]  # a refused request must not be sent again
        stood_here, self._out = len(kept) < len(self._out), kept
        if opened.waits:
            self._open_waits -= 1
            if not self._open_waits:
                self._early.clear()
        return stood_here

    def _greet_if_due(self, now_ms: int) -> None:
        """Send a Hello before a request if the last one is old, so that a restarted broker knows us."""
        if self._hello_ms is None or now_ms - self._hello_ms >= HELLO_MS:
            self._greet(now_ms)

    def _greet(self, now_ms: int) -> None:
        self._hello_ms = now_ms
        if self._silent_since_ms is None:
            self._silent_since_ms = now_ms
        self._out.append(encode(Hello(self.take_pair_number(), self.producer)))

    def _start_over(self, now_ms: int) -> None:
        self._reconnect = True
        self._out.clear()
        self._silent_since_ms = None
        self._greet(now_ms)
        self._ask_again(now_ms)

    def _ask_again(self, now_ms: int) -> None:
        self._renewed_ms = now_ms
        self._out.extend(opened.frame for opened in self._open.values())
        self._awaits.clear()
        self._await(_ranges(sorted(self._pending)))

    def _await(self, ranges: Iterable[tuple[int, int]]) -> None:
        for first_seq, tasks in ranges:
            number = self.take_pair_number()
            self._awaits[number] = (first_seq, tasks)
            self._out.append(encode(Await(number, first_seq, tasks)))


def _ranges(seqs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, count) for ascending seqs, each at most what one Await may name."""
    first = count = 0
    for seq in seqs:
        if 0 < count < RUN_TASKS_MAX and seq == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = seq, 1
    if count:
        yield first, count


def _size(found: ResultItem | RotaError) -> int:
    return len(found.result or b"") if isinstance(found, ResultItem) else 0
