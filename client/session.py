"""The producer's half of the frontend conversation, as a state machine: requests, results, reconnects. PURE.

Messages received, ticks and calls come in; frames to send, answers and results come out. Time is a value
(milliseconds of any steady clock), producer and first number are values, sockets are somebody else's. `client.py`
and `aio.py` are two shells around this one machine; what it does on which event:

    call           the frame of a request, after a Hello if the last is older than HELLO_MS
    tick           a Hello every HELLO_MS while something is outstanding; a new connection after SILENCE_MS;
                   everything outstanding once more after RENEW_MS
    Welcome        another boot than before: a new connection
    Accepted       an answer; the results of a Submit with `wait` are outstanding from here on
    Results        the outstanding ones are kept, all others are dropped, so that each result is seen once
    new connection Hello, all unanswered requests with their old numbers, Await for all outstanding results

A request is sent until it is answered or given up; the broker knows it by its number. docs/PROTOCOL.md tells the
same story from outside and changes with this file.
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
RENEW_MS: Final = 60_000  # a connection that broke and healed unseen has lost what was on its way: ask for all again
AWAY_MS: Final = 5_000  # a shell that did not look for so long may have lost its subscription as a slow reader
PAIR_NUMBERS_FROM: Final = 1 << 52  # numbers of requests that are no inputs; inputs have lower ones
RESULTS_HELD_MAX: Final = 200_000  # results nobody has taken; older ones are dropped and can be awaited again
RESULTS_HELD_BYTES: Final = 256 << 20
REJECTED_MAX: Final = 2  # times that a request is sent again because the broker asked for a Hello first
OPEN_REQUESTS_MAX: Final = 1_024  # well below NUMBERS_KEPT_MAX, so that a resent number is never stale

Input = Submit | OpenLane | Deploy | Cancel | SetPaused | SetWindow | DeadDrop
Request = Input | Drain
Reply = Accepted | Answer


Key = tuple[str, int]
"""What somebody can wait for: ("answer", number), ("result", seq), ("question", number)."""

ALL: Final[Key] = ("all", 0)  # news for everybody: the first sign of a broker, or the end of the conversation


class Output(NamedTuple):
    """What the shell must do now: if `reconnect`, drop the connection with all that it has not sent, and make a new
    one; then send the frames in order.
    """

    reconnect: bool
    frames: tuple[bytes, ...]


class _Open(NamedTuple):
    """A request that is not answered yet."""

    frame: bytes
    waits: bool  # a Submit whose results are wanted
    rejected: int = 0  # how often a broker said that it does not know us


class Session:
    """One producer's conversation with the broker, over as many connections as it takes."""

    def __init__(self, producer: str, first_number: int) -> None:
        assert 0 < first_number < PAIR_NUMBERS_FROM, first_number
        self.producer = producer
        self.boot: int | None = None
        self.failure: RotaError | None = None  # the conversation is over: the broker does not speak our protocol
        self._next_number = first_number
        self._next_pair = PAIR_NUMBERS_FROM
        self._open: dict[int, _Open] = {}
        self._open_waits = 0  # how many of them are submits whose results are wanted
        self._news: list[Key] = []
        self._answers: dict[int, Reply | RotaError] = {}
        self._pending: dict[int, None] = {}  # seqs whose results are outstanding, in the order they were asked for
        self._awaits: dict[int, tuple[int, int]] = {}
        self._results: OrderedDict[int, ResultItem | RotaError] = OrderedDict()  # emptied from the front
        self._results_bytes = 0
        self._early: dict[int, ResultItem] = {}  # results that came before their Accepted
        self._out: list[bytes] = []
        self._reconnect = False
        self._hello_ms: int | None = None  # when the last Hello went out
        self._silent_since_ms: int | None = None  # when the oldest Hello without any reply went out
        self._tick_ms: int | None = None
        self._renewed_ms: int | None = None  # when everything outstanding was last asked for, or began to be

    # --- calls ----------------------------------------------------------------------------------------

    def take_number(self, wanted: int | None = None) -> int:
        """Return the number of the next input: the wanted one, or one more than ever before."""
        number = self._next_number if wanted is None else wanted
        if type(number) is not int or not 0 < number < PAIR_NUMBERS_FROM:
            raise LocalError(f"number {number} is not in 1..{PAIR_NUMBERS_FROM - 1}", number=number)
        if number in self._open:
            raise LocalError(f"number {number} is in use: its answer has not come yet", number=number)
        self._next_number = max(self._next_number, number + 1)
        return number

    def take_pair_number(self) -> int:
        """Return a number for a request that is no input, only to pair its answer with it."""
        self._next_pair += 1
        return self._next_pair

    def request(self, request: Request, now_ms: int) -> None:
        """Send a request until it is answered. Take the answer with `answer`, or give it up with `forget`."""
        assert request.number not in self._open, f"number {request.number} is in use"
        assert not self.is_full
        self._greet_if_due(now_ms)
        opened = _Open(encode(request), type(request) is Submit and request.wait)
        self._open[request.number] = opened
        self._open_waits += opened.waits
        self._out.append(opened.frame)

    def answer(self, number: int) -> Reply | RotaError | None:
        """Return the answer to a request and let go of it, or None while there is none."""
        return self._answers.pop(number, None)

    def forget(self, number: int) -> None:
        """Give a request up. Whether it took effect is unknown; the same number with the same content finds out."""
        self._close(number)
        self._answers.pop(number, None)

    def want(self, first_seq: int, tasks: int, now_ms: int) -> None:
        """Ask for the results of `tasks` tasks from `first_seq` on, those apart that are here or on their way."""
        missing = [
            seq for seq in range(first_seq, first_seq + tasks) if seq not in self._results and seq not in self._pending
        ]
        if missing:
            self._greet_if_due(now_ms)
            self._pending.update(dict.fromkeys(missing))
            self._await(_ranges(missing))

    def unwant(self, seqs: Iterable[int]) -> None:
        """Forget about results: those that are here go, those that come will be dropped."""
        for seq in seqs:
            self._pending.pop(seq, None)
            self.take_result(seq)

    def take_result(self, seq: int) -> ResultItem | RotaError | None:
        """Return what came of a task and let go of it, or None while nothing is known."""
        found = self._results.pop(seq, None)
        if found is not None:
            self._results_bytes -= _size(found)
        return found

    def drop_refusals(self, seqs: Iterable[int]) -> None:
        """Forget refusals that nobody has taken, before asking anew: what was refused then may be there now."""
        for seq in seqs:
            if isinstance(self._results.get(seq), RotaError):
                self.take_result(seq)

    def arrived(self, wanted: Mapping[int, None]) -> list[int]:
        """Return those of the wanted seqs that `take_result` has something for."""
        if len(self._results) < len(wanted):
            return [seq for seq in self._results if seq in wanted]
        return [seq for seq in wanted if seq in self._results]

    def is_pending(self, seq: int) -> bool:
        """Return whether the result of a task is asked for and has not come."""
        return seq in self._pending

    def missing(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Return the ranges of the wanted seqs that are neither here nor asked for."""
        return list(_ranges(seq for seq in wanted if seq not in self._pending and seq not in self._results))

    # --- the shell ------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now_ms: int) -> None:
        """Take in one frame. Look at answers, results and `output` afterwards."""
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
        """End the conversation: whoever waits, and whoever asks from now on, gets this error."""
        self.failure = error
        self._news.append(ALL)

    def tick(self, now_ms: int) -> None:
        """Let time pass. The shell reads its socket first: what has arrived is no silence."""
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
        """Return what the shell must do now, once."""
        output = Output(self._reconnect, tuple(self._out))
        self._reconnect = False
        self._out.clear()
        return output

    def take_news(self) -> list[Key]:
        """Return what has come since the last call: whoever waits for one of these can go on."""
        news, self._news = self._news, []
        return news

    def next_tick_ms(self) -> int | None:
        """Return when `tick` has something to do, or None while nothing is outstanding."""
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
        """Return whether the broker owes us a Welcome for longer than it should."""
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
            # The socket has found the new broker by itself, but what went to the old one is lost with it.
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
                    self.take_result(seq)  # an earlier ask for this number was refused, before there was such a task
                if early is not None:
                    self._keep(seq, early)
                elif seq not in self._results:
                    self._pending[seq] = None
        if self._close(message.number) and opened.waits and isinstance(message, Accepted):
            # The results would have come with the second answer: the first one's connection may be given up.
            last_seq = message.first_seq + message.tasks
            self._await(_ranges(seq for seq in range(message.first_seq, last_seq) if seq in self._pending))

    def _on_refused(self, message: Refused, now_ms: int) -> None:
        error = error_from_wire(message.code, message.message, message.fields)
        opened = self._open.get(message.number)
        if isinstance(error, NotGreeted) and (opened is None or opened.rejected < REJECTED_MAX):
            # The socket has found a new broker by itself, and what we sent was there before our Hello.
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
        """Some results are no longer kept: the refusal of an Await, or of a Submit with `wait` that came before."""
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
        """Let go of a request; return whether it stood here to be sent again."""
        opened = self._open.pop(number, None)
        if opened is None:
            return False
        kept = [frame for frame in self._out if frame is not opened.frame]  # what was refused must not take effect now
        stood_here, self._out = len(kept) < len(self._out), kept
        if opened.waits:
            self._open_waits -= 1
            if not self._open_waits:
                self._early.clear()
        return stood_here

    def _greet_if_due(self, now_ms: int) -> None:
        """A request that follows a Hello closely reaches a broker that knows us, even if it was started anew."""
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
    """Yield (first, count) for rising seqs, each as much as one Await may name."""
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
