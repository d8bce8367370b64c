"""The errands of producers in a simulation, one function per kind, and the two at the start and end of a run.

Programs and batches come from tests/kits/chaos.py. Each errand has its own random stream and its own numbers, so that
it repeats its requests under the same numbers when its process is restarted. Its target (a task to cancel, a dead
letter) is chosen once and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import scripted
from chaos import random_runs
from simulation.people import Client, Errand, Steps
from simulation.plan import Plan, errand_of, lane_of

from rota.common import messages
from rota.common.digests import digest
from rota.common.messages import Accepted, LaneSettings, TaskRun
from rota.common.work import AGENT, ASK, COMPONENT, SOURCE, TELL, Limits

if TYPE_CHECKING:
    pass

NUMBERS_PER_ERRAND = 16
SETUP = 1_000_000  # numbers of the errands at the start and end of a run
CLOSING = 1_000_001


def lane_name(number: int) -> str:
    return "main" if number == 0 else f"lane{number}"


def settings_of(plan: Plan, number: int) -> LaneSettings:
    """How a lane is opened."""
    chance = Random(f"{plan.seed}/lane {number}")
    return LaneSettings(
        policy="recorded" if not plan.pinned and chance.random() < 0.25 else "derived",
        window=chance.choice((1, 2, 7, 50)),
        tasks_max=chance.choice((72 if plan.pinned else 40, 80, 100_000)),  # what is pinned waits all at once
        starvation_passes=chance.choice((1, 3, 64)),
        seed=digest(b"%d %d" % (plan.seed, number)),
        bytes_max=chance.choice((60_000 if plan.pinned else 6_000, 1 << 28)),
        agents_max=chance.choice((2, 6, 1_000)),
    )


def deploys(timeout_ms: int) -> list[tuple[str, Any]]:
    """The names that programs use, except `ghost`."""
    limits = Limits(emits_max=6, timeout_ms=timeout_ms, growth_bytes=400)
    return [
        ("counter", scripted.COUNTER._replace(limits=limits)),
        ("other", scripted.code("other")._replace(limits=limits)),
        ("function", scripted.FUNCTION_CODE._replace(limits=limits)),
        ("model:net", scripted.MODEL_CODE._replace(limits=limits)),
        ("model:drifting", scripted.UNSTABLE_CODE._replace(limits=limits)),
        ("model:refused", scripted.UNSTABLE_REFUSED._replace(limits=limits)),
        ("odd", scripted.UNRUNNABLE._replace(limits=limits)),
        ("trip", scripted.FLOW._replace(limits=limits)),
        ("tour", scripted.SOURCE_FLOW._replace(limits=limits)),
    ]


class Numbers:
    """The numbers of one errand, counted from its first again after every restart of its process."""

    def __init__(self, errand: int) -> None:
        self._next = errand * NUMBERS_PER_ERRAND

    def take(self) -> int:
        self._next += 1
        return self._next


# --- the frame ---------------------------------------------------------------------------------------------------


def set_up(plan: Plan) -> Errand:
    """Open the lanes and bind the names."""

    def steps(client: Client) -> Steps:
        numbers = iter(range(SETUP * NUMBERS_PER_ERRAND, SETUP * NUMBERS_PER_ERRAND + 1_000))
        for number in range(plan.lanes):
            lane = lane_name(number)
            if number:
                yield from client.ask_for(
                    messages.OpenLane(next(numbers), lane, settings_of(plan, number), False, None)
                )
            for name, code in deploys(timeout_ms=50):
                yield from client.ask_for(messages.Deploy(next(numbers), lane, name, code, False))

    return steps


def pinned_work(plan: Plan) -> Errand:
    """Open a paused lane, submit everything, release it: by then all inputs have their positions."""

    def steps(client: Client) -> Steps:
        chance = Random(f"{plan.seed}/pinned")
        numbers = Numbers(0)
        yield from client.ask_for(messages.OpenLane(numbers.take(), "pinned", settings_of(plan, 1), True, None))
        for name, code in deploys(timeout_ms=3_600_000):  # so that no worker counts as stuck, which could be a verdict
            yield from client.ask_for(messages.Deploy(numbers.take(), "pinned", name, code, False))
        seqs: list[int] = []
        for _ in range(4):
            request = messages.Submit(numbers.take(), "pinned", tuple(random_runs(chance)), True, 77, None)
            request = request._replace(kind=chance.choice((TELL, ASK)), deadline_ms=chance.choice((0, 0, 500)))
            reply = yield from client.ask_for(request)
            if isinstance(reply, Accepted):
                seqs += range(reply.first_seq, reply.first_seq + reply.tasks)
        for seq in chance.sample(seqs, min(2, len(seqs))):
            yield from client.ask_for(messages.Cancel(numbers.take(), seq))
        yield from client.ask_for(messages.SetPaused(numbers.take(), "pinned", False))
        for seq in seqs:
            yield from client.take_results(seq, 1)

    return steps


def close_down(_plan: Plan) -> Errand:
    """End draining. Paused lanes are released by the errands that paused them."""

    def steps(client: Client) -> Steps:
        others = client.simulation.clients
        while True:  # an earlier, opposite one may still be in flight
            yield from client.pair(lambda number: messages.Drain(number, False))
            if not any(number != CLOSING for other in others for number in other.errands):
                return
            yield from client.exchanges.pause(client.now_ms() + 2_000)

    return steps


def end_ask(number: int, seq: int) -> Errand:
    """Cancel a task that waits for an answer, once everything else is at rest: nothing else would end it."""

    def steps(client: Client) -> Steps:
        yield from client.ask_for(messages.Cancel(number, seq))

    return steps


# --- errands -------------------------------------------------------------------------------------------------------


def make_errand(plan: Plan, number: int) -> tuple[int, int, Errand]:
    """Return the client, the moment and the steps of an errand."""
    kind, client, at_us, chance = errand_of(plan, number)
    state = chance.getstate()

    def steps(host: Client) -> Steps:
        chance.setstate(state)  # a restarted process does the same
        return _KINDS[kind](host, plan, chance, number)

    return client, at_us, steps


def _submit(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    numbers = Numbers(number)
    for _ in range(chance.randint(1, 4)):
        runs = tuple(random_runs(chance, deadly=plan.deadly and chance.random() < 0.3))
        now_ms = chance.choice((None, None, 77))
        request = messages.Submit(numbers.take(), _lane(plan, chance), runs, chance.random() < 0.7, now_ms, None)
        request = request._replace(kind=chance.choice((TELL, ASK)), deadline_ms=chance.choice((0, 0, 20, 2_000)))
        listens, gives_up = chance.random() < 0.8, chance.random() < 0.1
        reply = yield from client.ask_for(request, tries=1 if gives_up else 1_000)
        if isinstance(reply, Accepted) and listens:
            yield from client.take_results(reply.first_seq, reply.tasks)


def _wait(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Ask agents that answer later and flows, and wait for the final answers; some of them are cancelled meanwhile."""
    numbers, lane = Numbers(number), _lane(plan, chance)
    later: list[Any] = [["postpone"], ["timer", chance.choice((5, 700)), [["settle", -1, 3]]]]
    ask: list[Any] = ["ask", chance.choice(("counter/b", "trip", "model:net")), []]
    program = chance.choice((later, [["await", [ask, ["timer", 5, []]], 2], ["await", [ask, ask], 1]]))
    target = chance.choice(("counter/a", "other/desk")) if program is later else chance.choice(("trip", "tour"))
    run = TaskRun.of(target, 0, (scripted.program(*program),) * chance.randint(1, 5), None)
    deadline_ms = chance.choice((0, 0, 30, 5_000))
    request = messages.Submit(numbers.take(), lane, (run,), True, None, None, ASK, deadline_ms)
    reply = yield from client.ask_for(request)
    if not isinstance(reply, Accepted):
        return
    for seq in range(reply.first_seq, reply.first_seq + reply.tasks):
        if chance.random() < 0.3:
            yield from client.exchanges.pause(client.now_ms() + chance.choice((0, 20, 500)))
            yield from client.ask_for(messages.Cancel(numbers.take(), seq))
    yield from client.take_results(reply.first_seq, reply.tasks)


def _bulk(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Many bytes at once, so that a commit has many pages."""
    payload = scripted.program(["add", 1]) + b" " * chance.choice((100, 1_500, 6_000))
    run = TaskRun.of(chance.choice(("counter/a", "function")), 0, (payload,) * chance.randint(3, 12), None)
    request = messages.Submit(Numbers(number).take(), _lane(plan, chance), (run,), True, None, None)
    reply = yield from client.ask_for(request)
    if isinstance(reply, Accepted):
        yield from client.take_results(reply.first_seq, reply.tasks)


def _twice(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """The same number with the same content gets the same answer, even much later."""
    run = TaskRun.of("counter/a", 0, (scripted.program(["add", 1]),), None)
    request = messages.Submit(Numbers(number).take(), _lane(plan, chance), (run,), False, None, None)
    first = yield from client.ask_for(request)
    yield from client.exchanges.pause(client.now_ms() + chance.choice((0, 50, 3_000)))
    second = yield from client.ask_for(request)
    if isinstance(first, Accepted):
        assert second == first, f"request {request.number} was answered {first}, then {second}"


def _reuse(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """The same number with other content must be refused."""
    taken = Numbers(number).take()
    lane = _lane(plan, chance)
    first = yield from client.ask_for(messages.SetWindow(taken, lane, 5))
    if isinstance(first, Accepted):
        client.simulation.checker.reuses(client.name, taken)
        # The answer may be to a copy of the first request; the run file says which one took effect.
        yield from client.ask_for(messages.SetWindow(taken, lane, 6))


def _cancel(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    numbers = Numbers(number)
    for _ in range(chance.randint(1, 3)):
        yield from client.exchanges.pause(client.now_ms() + chance.choice((0, 2, 100)))
        taken, back = numbers.take(), chance.randrange(30)
        seq = client.aim(taken, lambda back=back: max(1, client.simulation.checker.highest_seq - back))
        yield from client.ask_for(messages.Cancel(taken, seq))


_COUNTERS = {
    number: scripted.code(f"counter{number}", kind) for number, kind in enumerate((AGENT, SOURCE, COMPONENT), 1)
}


def _deploy(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    limits = Limits(emits_max=chance.choice((0, 2, 6)), timeout_ms=chance.choice((50, 2_000)))
    limits = limits._replace(growth_bytes=chance.choice((0, 60, 128 << 10)), asks_max=chance.choice((0, 1, 1_024)))
    limits = limits._replace(steps_max=chance.choice((1, 3, 1_000)), call_fuel=chance.choice((5, 10**11)))
    limits = limits._replace(call_bytes=chance.choice((200, 1 << 20)))
    name, code = chance.choice(
        [
            ("counter", _COUNTERS[chance.randint(1, 3)]),
            ("other", scripted.code("other2")),
            ("function", scripted.FUNCTION_CODE if limits.emits_max else scripted.COMMAND_CODE),
            ("model:net", scripted.MODEL_CODE),
            ("model:net", scripted.UNSTABLE_CODE),
            ("model:net", scripted.UNSTABLE_REFUSED),
            ("trip", _FLOWS[chance.randint(1, 2)]),
            ("trip", _FLOWS[chance.randint(1, 2)]),
            ("trip", scripted.COUNTER),
            ("other", _FLOWS[1]),
        ]
    )
    code = code._replace(limits=limits)
    request = messages.Deploy(Numbers(number).take(), _lane(plan, chance), name, code, chance.random() < 0.5)
    yield from client.ask_for(request)


_FLOWS = {
    number: scripted.code(f"flow{number}", kind)._replace(flow=True) for number, kind in ((1, AGENT), (2, SOURCE))
}


def _pause(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    numbers, lane = Numbers(number), _lane(plan, chance)
    yield from client.ask_for(messages.SetPaused(numbers.take(), lane, True))
    yield from client.exchanges.pause(client.now_ms() + chance.choice((5, 500, 4_000)))
    yield from client.ask_for(messages.SetPaused(numbers.take(), lane, False))


def _window(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    request = messages.SetWindow(Numbers(number).take(), _lane(plan, chance), chance.choice((1, 2, 5, 40)))
    yield from client.ask_for(request)


def _dead(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Retry a dead letter, or drop it."""
    numbers, lane = Numbers(number), _lane(plan, chance)
    letters = (yield from client.question("dead", lane=lane)) or []
    taken, place, retries = numbers.take(), chance.random(), chance.random() < 0.6
    seq = client.aim(taken, lambda: letters[int(place * len(letters))]["seq"] if letters else 0)
    if seq and retries:
        reply = yield from client.ask_for(messages.Submit(taken, lane, (), True, None, seq))
        if isinstance(reply, Accepted):
            yield from client.take_results(reply.first_seq, reply.tasks)
    elif seq:
        yield from client.ask_for(messages.DeadDrop(taken, lane, (seq,)))


def _ask(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Query digests and tasks; the answers must stay true."""
    checker = client.simulation.checker
    for _ in range(chance.randint(1, 6)):
        lane = _lane(plan, chance)
        seen = yield from client.question("digest", lane=lane)
        if seen is not None:
            checker.digest_told(seen["lane"], seen["retired"], seen["digest"])
        seq = max(1, checker.highest_seq - chance.randrange(20))
        facts = yield from client.question("task", seq=seq)
        if facts is not None and "result" in facts:
            checker.told(client.name, messages.ResultItem(**facts["result"]))
        yield from client.question(chance.choice(("status", "lanes", "agents", "workers", "tasks", "deploys")))
        yield from client.exchanges.pause(client.now_ms() + chance.choice((1, 200, 2_000)))


def _look_back(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Ask for results of old tasks, its own or others."""
    back = chance.randrange(40)
    first_seq = max(1, client.simulation.checker.highest_seq - back)
    yield from client.take_results(first_seq, min(back + 1, chance.randint(1, 20)))


def _drain(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    yield from client.pair(lambda taken: messages.Drain(taken, True))
    yield from client.exchanges.pause(client.now_ms() + chance.choice((10, 1_000)))
    yield from client.pair(lambda taken: messages.Drain(taken, False))


def _open(client: Client, plan: Plan, chance: Random, number: int) -> Steps:
    """Open a lane during the run and use it."""
    numbers, lane = Numbers(number), f"new{number}"
    settings = settings_of(plan, 100 + number)
    paused, source = chance.random() < 0.3, _lane(plan, chance)
    yield from client.ask_for(messages.OpenLane(numbers.take(), lane, settings, paused, source))
    reply = yield from client.ask_for(
        messages.Submit(numbers.take(), lane, tuple(random_runs(chance)), True, None, None)
    )
    if paused:
        yield from client.ask_for(messages.SetPaused(numbers.take(), lane, False))
    if isinstance(reply, Accepted):
        yield from client.take_results(reply.first_seq, reply.tasks)


def _lane(plan: Plan, chance: Random) -> str:
    return lane_name(lane_of(plan, chance))


_KINDS: dict[str, Callable[[Client, Plan, Random, int], Steps]] = {
    "submit": _submit,
    "bulk": _bulk,
    "twice": _twice,
    "reuse": _reuse,
    "cancel": _cancel,
    "deploy": _deploy,
    "pause": _pause,
    "window": _window,
    "dead": _dead,
    "ask": _ask,
    "look back": _look_back,
    "drain": _drain,
    "open": _open,
    "wait": _wait,
}
