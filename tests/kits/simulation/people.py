"""Producers: processes with the real client session, exchanges, queries and links, which run errands.

An errand is a generator over the client's exchanges. It survives its process: a restarted producer repeats what was
open under the same numbers, like one that keeps a list of its work. Everything that a client receives goes to the
checker at once, whether or not an exchange still waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from simulation.broker_host import ENDPOINTS
from simulation.network import Context
from simulation.processes import SimProcess

from rota.client.exchanges import Exchanges, Patience, Pause, Timeouts
from rota.client.link import Link
from rota.client.questions import Questions
from rota.client.session import ALL, Key, Session
from rota.client.texts import Texts
from rota.common import errors
from rota.common.errors import NotReachable, RotaError
from rota.common.results import Result

if TYPE_CHECKING:
    from simulation.world import Simulation

Steps = Generator[Pause, None, None]
Errand = Callable[["Client"], Steps]

ANSWER_MS: Final = 20_000
_FOREVER_MS: Final = 1 << 60
AGAIN: Final = (
    errors.Busy, errors.StorageFull, errors.Draining, errors.NotReachable, errors.UnknownLane, TimeoutError
)  # fmt: skip


class _Running:
    """A running errand."""

    def __init__(self, name: int, steps: Steps) -> None:
        self.name = name
        self.steps = steps
        self.turn: Pause | None = None  # what it waits for; None: it can continue


class Client(SimProcess):
    """One producer, through all of its restarts."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation, name)
        self.chance = simulation.chances.stream(name)
        self.errands: dict[int, Errand] = {}  # to be done, by their number in the plan
        self.running: list[_Running] = []
        self._aims: dict[int, int] = {}

    def start(self) -> None:
        if self.up:
            return
        self.begin()
        self.mono_offset_us = self.chance.randrange(1 << 40)
        self.session = Session(self.name, 1)
        self.questions = Questions()
        self.context: Any = Context(self.simulation.network, self)
        self.links: dict[str, Link] = {}
        decoder: Any = None  # results are not decoded here
        self.exchanges = Exchanges(
            self.session, self.questions, Texts(), decoder, limits=Timeouts(ANSWER_MS, 10 * ANSWER_MS),
            now_ms=self.now_ms, chance=self.chance.random, not_reachable=NotReachable,
        )  # fmt: skip
        self.running = [_Running(number, errand(self)) for number, errand in self.errands.items()]
        self.wake()

    def give(self, number: int, errand: Errand) -> None:
        """Have something done."""
        self.errands[number] = errand
        if self.up:
            self.running.append(_Running(number, errand(self)))
            self.wake()

    def ended(self) -> None:
        self.running = []
        self.clock.after(self.chance.choice((1_000, 100_000, 3_000_000)), self.start)

    def now_ms(self) -> int:
        return (self.clock.now_us + self.mono_offset_us) // 1_000

    def turn(self) -> None:
        """Pump the links and continue every errand whose wait is over."""
        news = self._pump()
        while self._resume(news):
            news = self._pump()
        times = [link.next_tick_ms() for link in self.links.values()]
        times += [errand.turn.until_ms for errand in self.running if errand.turn is not None]
        due_ms = min((one for one in times if one is not None), default=None)
        if due_ms is not None and due_ms < _FOREVER_MS:
            self.wake_at(self.clock.now_us + max(1, (due_ms - self.now_ms()) * 1_000))

    def _pump(self) -> list[Key]:
        """What `client.core.Core.pump` does."""
        for name, machine, endpoint in (
            ("frontend", self.session, ENDPOINTS.frontend),
            ("query", self.questions, ENDPOINTS.query),
        ):
            if name not in self.links and machine.is_busy:
                self.links[name] = Link(self.context, lambda endpoint=endpoint: endpoint, machine)  # type: ignore[misc]
        for link in self.links.values():
            link.pump(self.now_ms())
        assert self.session.failure is None, f"the conversation ended: {self.session.failure}"
        assert self.questions.failure is None, f"the questions ended: {self.questions.failure}"
        return self.session.take_news() + self.questions.take_news()

    def _resume(self, news: list[Key]) -> bool:
        """Continue errands whose key arrived or time is up; return False if there was none."""
        moved = False
        for errand in list(self.running):
            turn = errand.turn
            due = turn is None or (turn.until_ms is not None and turn.until_ms <= self.now_ms())
            if not due and turn is not None and news:
                due = turn.key is None or turn.key in news or ALL in news
            if due:
                moved = True
                try:
                    errand.turn = next(errand.steps)
                except StopIteration:
                    self.running.remove(errand)
                    self.errands.pop(errand.name, None)
        return moved

    # --- what errands are made of ----------------------------------------------------------------------------------

    def ask_for(self, request: Any, *, tries: int = 1_000) -> Generator[Pause, None, Any]:
        """Send an input until it is answered or refused for good; return the answer, or the refusal."""
        for _ in range(tries):
            self.simulation.checker.asked(self.name, request)
            try:
                reply = yield from self.exchanges.request(request, self.now_ms() + ANSWER_MS)
            except AGAIN as error:
                if isinstance(error, RotaError):
                    self.simulation.checker.refused(self.name, request, error)
                # Let answers to what the session sent again arrive: they could be mistaken for that of the next try.
                yield from self.exchanges.pause(self.now_ms() + self.chance.choice((10, 300, 2_000)))
                continue
            except RotaError as error:
                self.simulation.checker.refused(self.name, request, error)
                return error
            self.simulation.checker.answered(self.name, request, reply)
            return reply
        return None

    def pair(self, make: Callable[[int], Any]) -> Generator[Pause, None, Any]:
        """Send a request that is not an input; return its answer's value, or None without an answer."""
        request = make(self.session.take_pair_number())
        try:
            reply = yield from self.exchanges.request(request, self.now_ms() + ANSWER_MS)
        except (RotaError, TimeoutError):
            return None
        return reply.value

    def aim(self, number: int, choose: Callable[[], int]) -> int:
        """Choose a target for the request of this number once; after restarts it is the same."""
        return self._aims.setdefault(number, choose())

    def take_results(self, first_seq: int, tasks: int) -> Steps:
        """Wait for outcomes, and report each to the checker."""
        for seq in range(first_seq, first_seq + tasks):
            try:
                result: Result = yield from self.exchanges.outcome(seq, Patience(None, None))
            except RotaError as error:
                self.simulation.checker.no_result(self.name, seq, error)
                continue
            self.simulation.checker.told(self.name, result._item)

    def question(self, what: str, **arguments: Any) -> Generator[Pause, None, Any]:
        """Ask, and return the answer's value or None."""
        try:
            answer = yield from self.exchanges.question(what, arguments, self.now_ms() + ANSWER_MS)
            self.simulation.checker.read(what, answer)
            value = answer.value
        except (RotaError, TimeoutError):
            return None
        return value


def inputs_of(errand_number: int, count: int = 16) -> list[int]:
    """The numbers of an errand's requests, the same after restarts."""
    return [errand_number * count + place + 1 for place in range(count)]
