"""Client session and broker core, connected without sockets: every fault of a link, in any order.

Tasks go to a name that is not deployed, so each has its outcome (`unknown_agent`) without a worker.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rota.broker import records
from rota.broker.effects import FRONTEND, FromProducer, Send, Tick, Unreachable
from rota.broker.recovery import fold
from rota.broker.sequencer import Sequencer
from rota.broker.state import BrokerState
from rota.broker.world import World
from rota.client.session import HELLO_MS, RENEW_MS, SILENCE_MS, Session
from rota.common.digests import ZERO_DIGEST, lane_seed
from rota.common.messages import Accepted, LaneSettings, ResultItem, Submit, TaskRun
from rota.common.wire import FROM_PRODUCERS, decode, encode


class Pair:
    """A session and a core, and the one connection between them. Time is a number."""

    def __init__(self) -> None:
        self.session = Session("loader", 1)
        self.journal: list[records.Record] = []
        self.now_ms = 0
        self.connection = 0
        self.to_broker: list[bytes] = []
        self.to_session: list[bytes] = []
        self.core: BrokerState
        self.start_broker()

    def start_broker(self) -> None:
        """End the broker, if there is one, and start the next from the journal. Frames in flight are lost."""
        world = World()
        fold(world, self.journal)
        started: list[records.Record] = [records.Epoch(world.boot + 1, self.now_ms, ())]
        if not world.lanes:
            nobody = records.Origin("", 0, ZERO_DIGEST)
            lane = LaneSettings(seed=lane_seed("main"))
            started.append(records.Opened("main", self.now_ms, nobody, lane, False, ()))
        fold(world, started)
        self.journal += started
        self.core = BrokerState(world, version="0")
        self.sequencer = Sequencer(self.core)
        self.cut()

    def cut(self) -> None:
        """Break the connection; it reconnects by itself under a new identity, and the session does not notice."""
        if self.connection:
            self.sequencer.step([Unreachable(FRONTEND, self.identity)], self.now_ms, self.now_ms)
        self.connection += 1
        self.to_broker.clear()
        self.to_session.clear()

    @property
    def identity(self) -> bytes:
        return b"%d" % self.connection

    def tick(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.session.tick(self.now_ms)
        self.flush()

    def flush(self) -> None:
        output = self.session.output()
        if output.reconnect:
            self.cut()
        self.to_broker += output.frames

    def deliver(self) -> None:
        """Deliver frames in both directions until none are left."""
        while self.to_broker or self.to_session:
            events = [FromProducer(self.identity, decode(frame, FROM_PRODUCERS)) for frame in self.to_broker]
            self.to_broker.clear()
            effects = self.sequencer.step([*events, Tick()], self.now_ms, self.now_ms)
            self.journal += effects.records
            sends: list[Send] = [*effects.now, *effects.after]
            self.to_session += [encode(one.message) for one in sends if one.identity == self.identity]
            for frame in self.to_session:
                self.session.receive(frame, self.now_ms)
            self.to_session.clear()
            self.flush()


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(1, 5)),
            st.tuples(st.just("tick"), st.sampled_from([1, HELLO_MS, SILENCE_MS, RENEW_MS])),
            st.sampled_from([("deliver", 0), ("restart", 0), ("cut", 0)]),
        ),
        max_size=30,
    )
)
def test_every_submit_takes_effect_once_and_every_result_comes_once(steps: list[tuple[str, int]]) -> None:
    """Goal: whatever a link and a broker do, each submit counts once and each result is seen once. Method: faults in
    any order, then a link that works for long enough.
    """
    pair = Pair()
    tasks: dict[int, int] = {}
    for what, value in steps:
        if what == "submit":
            number = pair.session.take_number()
            run = TaskRun.of("nobody", 0, tuple(b"%d" % index for index in range(value)), None)
            pair.session.request(Submit(number, "main", (run,), True, None, None), pair.now_ms)
            tasks[number] = value
            pair.flush()
        elif what == "tick":
            pair.tick(value)
        elif what == "deliver":
            pair.deliver()
        elif what == "restart":
            pair.start_broker()
        else:
            pair.cut()
    for _ in range(2 * RENEW_MS // HELLO_MS):
        pair.tick(HELLO_MS)
        pair.deliver()
    assert not pair.session.is_busy
    seqs = []
    for number, count in tasks.items():
        reply = pair.session.answer(number)
        assert isinstance(reply, Accepted), reply
        assert reply.tasks == count
        seqs += range(reply.first_seq, reply.first_seq + count)
    assert sorted(seqs) == list(range(1, pair.core.world.next_seq)), "a submit took effect twice, or not at all"
    for seq in seqs:
        result = pair.session.take_result(seq)
        assert isinstance(result, ResultItem), result
        assert (result.seq, result.kind) == (seq, "unknown_agent")
    pair.core.check_invariants()
