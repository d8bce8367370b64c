"""The checks during and after a simulation.

Everything that left the broker (answers, results, answers to queries, events, refusals) is kept and compared with the
run file at the end: neither a crash nor anything else may contradict it. The outcomes of derived lanes are computed
again by the sequential reference, tests/kits/reference.py.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from core_kit import picture
from simulation.history import History, check_reference, outcome_key, read_history
from simulation.worker_lies import DRIFT, LIE

from rota.broker import deploys, records, requests
from rota.broker import workers as workers_module
from rota.broker.asks import is_pending
from rota.broker.journal import Journal
from rota.broker.records import Origin
from rota.broker.recovery import fold
from rota.broker.refusals import refuse
from rota.broker.state import BrokerState
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common.calls import is_instance
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import NumberReused, RotaError, StaleNumber
from rota.common.events import LaneMoved, OutcomesDiffer, TaskFailure, TextStreamed
from rota.common.messages import Accepted, Answer, Completed, DeadDrop, Event, ResultItem, Submit
from rota.common.work import RECORDED_FAILURES, Done, Failed, Fold, Outcome

if TYPE_CHECKING:
    from simulation.broker_host import BrokerHost
    from simulation.world import Simulation

FOLDED_RECORDS_MAX = 300  # folding all records is slow; at the end it is always done


def check_core(core: BrokerState) -> None:
    """An invariant between two steps failed."""
    core.check_invariants()


def _refuse_without_effect(core: BrokerState, identity: bytes, number: int, error: RotaError) -> None:
    """Refuse a request, which must not have taken effect."""
    producer = core.producer(identity)
    if producer is not None and not isinstance(error, NumberReused | StaleNumber):
        assert core.world.producers.is_new(Origin(producer, number, ZERO_DIGEST)), (
            f"{(producer, number)} is refused ({error.code}) and took effect"
        )
    refuse(core, identity, number, error)


class Checker:
    """Everything that left the broker, and the verdict."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.highest_seq = 1
        self.tasks = 0
        self.boots = 0
        self.lane_digests: list[tuple[str, str]] = []
        self.seen: Counter[str] = Counter()  # counts of notable events
        self.written: list[bytes] = []  # the records that the run file must hold
        self._requests: dict[tuple[str, int], Any] = {}
        self._answers: dict[tuple[str, int], Accepted | Answer] = {}
        self._refusals: dict[tuple[str, int], str] = {}
        self._reused: dict[tuple[str, int], None] = {}
        self._results: dict[int, tuple[Any, ...]] = {}
        self._digests: dict[tuple[str, int, bytes], None] = {}  # as told: lane, retired tasks, digest
        self._failures: dict[int, tuple[str, str]] = {}  # from events
        self._divergences_told: dict[tuple[str, int], None] = {}
        self._events = (0, 0)  # boot and number of the last one
        self._pieces: list[TextStreamed] = []
        # The progress of each lane of a boot, by event number: from events, and from answers.
        self._moves: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self._answered: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self._lies: dict[tuple[bytes, int], None] = {}  # seed of the lane, turn
        # Outcomes that came late, of the present boot, with the tasks that the same worker ran before.
        self._late: list[tuple[Task, Outcome, list[Task]]] = []

    # --- what happens to the broker --------------------------------------------------------------------------------

    def recovered(self, host: BrokerHost, journal: Journal, world: World) -> None:
        """Check a run file that a broker has read: it has everything durable, and at most one more whole commit; and
        snapshot and tail give the same state as all records.
        """
        disk = host.disk
        attempts = [[records.encode(record) for record in attempt] for attempt in disk.attempts]
        assert journal.last_number >= disk.durable, f"{disk.durable} records were durable, {journal.last_number} are"
        kept = self._kept(journal)
        first = journal.first_number() - 1
        matching = [attempt for attempt in ([], *attempts) if kept == (self.written + attempt)[first:]]
        assert matching, (
            f"{journal.last_number} records are there: neither the {len(self.written)} durable ones, nor those and one "
            f"of the commits that were cut off, which had {[len(attempt) for attempt in attempts]}"
        )
        if matching[0]:
            self.seen["commits found that nobody was told of"] += 1
            disk.attempts = []
        if first:
            self.seen["starts from a run file that was cut"] += 1
        self.written += matching[0]
        disk.durable = len(self.written)
        self.compare_with_fold(world, self.written)

    def _kept(self, journal: Journal) -> list[bytes]:
        """The kept records of a run file."""
        return [entry.body for entry in journal.log.entries(journal.first_number(), 1 << 32)]

    def committed(self, batch: list[records.Record]) -> None:
        """Note what the journal reported as durable."""
        self.written += [records.encode(record) for record in batch]

    def started(self, host: BrokerHost) -> None:
        self.boots += 1
        assert host.core is not None
        host.core.check_invariants()

    def broker_crashed(self, host: BrokerHost) -> None:
        """Forget what was in memory."""
        self._late = []

    def turned(self, host: BrokerHost) -> None:
        """Check after a turn that the state in memory follows from the records."""
        assert host.core is not None
        assert host.server is not None
        if len(self.written) < FOLDED_RECORDS_MAX:
            self.compare_with_fold(host.core.world, [*self.written, *map(records.encode, host.server.unwritten)])

    def compare_with_fold(self, live: World, bodies: list[bytes]) -> None:
        world = World(**self.simulation.plan.world_settings)
        fold(world, map(records.decode, bodies))
        world.check_invariants()
        assert picture(world) == picture(live), "the records fold to another world than the live one"

    # --- what workers do -------------------------------------------------------------------------------------------

    def lied(self, folded: Fold, place: int, worker: str) -> None:
        self._lies[(folded.lane_seed, folded.tasks[place].turn)] = None
        self.simulation.transcript.note("lie", worker, folded.address, folded.tasks[place].turn)

    def probes(self) -> list[tuple[Any, str, Any]]:
        """Note late completions that enter the core, and check each refusal of a request where it is made."""
        real = workers_module._compare_late

        def probe(core: BrokerState, message: Completed) -> None:
            assignment = core.dispatcher.orphans.get(message.assignment)
            for (queue, tasks), result in zip(assignment.folds if assignment else (), message.folds, strict=False):
                for place, (task, outcome) in enumerate(zip(tasks, result.outcomes, strict=False)):
                    if result.provenance is None or result.provenance.result_class == "bitwise":
                        self._late.append((task, outcome, [] if queue.stateless else tasks[:place]))
            self.seen["late completions"] += 1
            real(core, message)

        refusing = [(module, "refuse", _refuse_without_effect) for module in (requests, deploys)]
        return [(workers_module, "_compare_late", probe), *refusing]

    # --- what clients are told -------------------------------------------------------------------------------------

    def asked(self, producer: str, request: Any) -> None:
        key = (producer, request.number)
        self._refusals.pop(key, None)
        known = self._requests.setdefault(key, request)
        assert known == request or key in self._reused, f"{key} asks for two things: the simulation is wrong"

    def reuses(self, producer: str, number: int) -> None:
        """Note that this number will be reused with other content, on purpose."""
        self._reused[(producer, number)] = None

    def answered(self, producer: str, request: Any, reply: Accepted | Answer) -> None:
        key = (producer, request.number)
        if type(reply) is Answer and isinstance(reply.value, dict):
            reply = reply._replace(value={name: reply.value[name] for name in ("caught",) if name in reply.value})
        known = self._answers.setdefault(key, reply)
        assert known == reply, f"{key} was answered {known}, then {reply}"
        if type(reply) is Accepted and reply.tasks:
            self.highest_seq = max(self.highest_seq, reply.first_seq + reply.tasks - 1)

    def refused(self, producer: str, request: Any, error: RotaError) -> None:
        key = (producer, request.number)
        assert not isinstance(error, NumberReused) or key in self._reused, f"{key} was refused: {error}"
        self._refusals[key] = error.code
        self.seen[f"refused with {error.code}"] += 1
        self.simulation.transcript.note("refused", producer, request.number, error.code)

    def told(self, client: str, item: ResultItem) -> None:
        """Note a result that a client got."""
        key = (item.lane, item.turn, item.ok, item.result, item.kind, item.message, tuple(item.log))
        known = self._results.setdefault(item.seq, key)
        assert known == key, f"task {item.seq} had the outcome {known}, {client} was told {key}"
        self.highest_seq = max(self.highest_seq, item.seq)

    def no_result(self, client: str, seq: int, error: RotaError) -> None:
        """Note a refusal of a result."""
        small = self.simulation.plan.world_settings.get("results_max", 1 << 30) < 1_000
        assert small or error.code != "expired", f"the result of task {seq} is gone: {error}"

    def read(self, what: str, answer: Answer) -> None:
        """Check an answer to a query: what it says of a lane agrees with the events up to its number, or is newer."""
        if what != "digest":
            return
        key, retired = (answer.boot, answer.value["lane"]), answer.value["retired"]
        self._answered.setdefault(key, []).append((answer.event, retired))
        moves = self._moves.get(key, [])
        assert all(at <= retired for number, at in moves if number <= answer.event), "an answer is older than it says"
        assert all(at >= retired for number, at in moves if number > answer.event), (
            "an event tells what was read before"
        )

    def digest_told(self, lane: str, retired: int, digest: bytes) -> None:
        self._digests[(lane, retired, digest)] = None

    def heard(self, event: Event) -> None:
        """Note a published event, which must not be contradicted either."""
        if isinstance(event.what, TextStreamed):
            self._pieces.append(event.what)
            return
        boot, number = self._events
        if event.boot == boot:
            assert event.event > number, "events are numbered upwards"
        self._events = (event.boot, event.event)
        what = event.what
        if isinstance(what, LaneMoved):
            self.digest_told(event.lane, what.retired, what.digest)
            key = (event.boot, event.lane)
            self._moves.setdefault(key, []).append((event.event, what.retired))
            for number, retired in self._answered.get(key, ()):
                assert event.event <= number or what.retired >= retired, "an event tells what was read before"
        elif isinstance(what, TaskFailure):
            self._failures[what.seq] = (what.kind, what.message)
        elif isinstance(what, OutcomesDiffer):
            self._divergences_told[(event.lane, what.turn)] = None

    # --- the end ---------------------------------------------------------------------------------------------------

    def final(self) -> None:
        """At the end compare all messages with the run file, and the run file with the reference."""
        core = self.simulation.broker.core
        assert core is not None
        journal = self.simulation.broker.disk.journal
        assert journal is not None
        kept = self._kept(journal)
        assert kept == self.written[journal.first_number() - 1 :], "the run file is not what was committed"
        core.check_invariants()
        self.compare_with_fold(core.world, self.written)
        found = [records.decode(body) for body in self.written]
        self.seen["snapshots"] = sum(type(record) is records.Snapshotted for record in found)
        history = read_history(found, self.simulation.plan.world_settings)
        self.tasks = history.world.next_seq - 1
        self.lane_digests = [(name, lane.digest.hex()) for name, lane in history.world.lanes.items()]
        self.seen["divergences"] = len(history.diverged)
        for task in history.finished.values():
            if type(task.outcome) is Failed:
                self.seen[f"failed with {task.outcome.kind}"] += 1
        self._check_told(history)
        self._check_asks(history)
        self._check_requests(history)
        self._check_lies(history)
        self._check_texts(history)
        check_reference(found, history, self._lied_turns(history))

    def _check_told(self, history: History) -> None:
        for seq, told in self._results.items():
            task = history.finished.get(seq) or history.passing[seq]
            assert told == outcome_key(task), f"task {seq}: told {told}, it has {task.outcome}"
            assert not is_pending(task), f"task {seq}: told {told}, and it waits for its answer"
        for seq, (kind, message) in self._failures.items():
            outcome = history.finished[seq].outcome
            assert type(outcome) is Failed, f"task {seq} was told to have failed"
            assert (outcome.kind, outcome.message) == (kind, message), f"task {seq} failed otherwise"
        for lane, retired, digest in self._digests:
            assert digest in history.digests[lane][retired], f"lane {lane} never had the digest told at {retired}"
        unfinished = [seq for seq in range(1, self.tasks + 1) if seq not in {**history.finished, **history.passing}]
        assert not unfinished, f"tasks without an outcome at rest: {unfinished[:9]}"
        pending = [seq for seq, task in history.passing.items() if is_pending(task)]
        assert not pending, f"tasks that wait for an answer at rest: {pending[:9]}"

    def _check_asks(self, history: History) -> None:
        """Check that each ask was answered once, except those of calls that had ended by then."""
        for ask, address in history.asks.items():
            assert ask in history.answered or is_instance(address), f"ask {ask} of {address} got no answer"
            self.seen["asks answered"] += ask in history.answered
        self.seen["asks without an answer"] = len(history.asks) - self.seen["asks answered"]

    def _check_texts(self, history: History) -> None:
        """Check that each piece of text is a part of its task's result, at its place."""
        for piece in self._pieces:
            outcome = history.finished[piece.seq].outcome
            if type(outcome) is Done:
                text = (outcome.result or b"").rstrip(DRIFT).decode()
                assert text[piece.offset :].startswith(piece.text), f"task {piece.seq} said {piece}, it became {text}"
                assert piece.turn == history.finished[piece.seq].turn, f"{piece} has another turn"
                self.seen["pieces of text"] += 1

    def _check_requests(self, history: History) -> None:
        """Check that each answer is in the run file, each number once, and nothing that is refused at any time.

        Other refusals are checked where they are made: a copy of the request that was sent on an earlier connection may
        arrive later, and is carried out anew.
        """
        for key, reply in self._answers.items():
            request = self._requests[key]
            record = history.inputs.get(key)
            if type(reply) is Accepted:
                assert record is not None, f"{key} was accepted and is nowhere: {request}"
                if type(request) is Submit:
                    assert record.first_seq == reply.first_seq, f"{key} was told another number"
                    assert history.stamped_by[key] == reply.tasks, f"{key} was told another count"
            elif "caught" in reply.value:
                assert (record is not None) == reply.value["caught"], f"{key} was told {reply}, there is {record}"
            elif type(request) is not DeadDrop:
                assert record is not None, f"{key} was answered and is nowhere"
        for key, record in history.inputs.items():
            assert _is_of(record, self._requests[key]), f"{key} asked for {self._requests[key]}, which became {record}"
        for key, code in self._refusals.items():
            if key not in self._answers and _is_final(self._requests[key], code) and key not in self._reused:
                assert key not in history.inputs, f"{key} was refused ({code}) and took effect"

    def _lied_turns(self, history: History) -> dict[tuple[str, int], None]:
        """Return the lies that were the first completion and stand."""
        found = {}
        seeds = {lane.seed: name for name, lane in history.world.lanes.items()}
        for seq, task in history.finished.items():
            result = getattr(task.outcome, "result", None) or b""
            if task.code is not None and result.endswith(LIE):
                key = (task.run.lane, task.turn)
                assert (history.world.lanes[task.run.lane].seed, task.turn) in self._lies, f"nobody lied on task {seq}"
                found[key] = None
        assert all(seed in seeds for seed, _ in self._lies)
        return found

    def _check_lies(self, history: History) -> None:
        """Check that divergences are exactly the tasks with two different outcomes."""
        lanes = {name: lane.seed for name, lane in history.world.lanes.items()}
        for lane, turn in history.diverged:
            assert (lanes[lane], turn) in self._lies, f"turn {turn} of {lane} is said to diverge, and nobody lied"
        for lane, turn in self._divergences_told:
            assert (lane, turn) in history.diverged, f"a divergence was told and is nowhere: {lane} {turn}"
        for task, outcome, before in self._late:
            same = any(_is_verdict(one.outcome) for one in (task, *before)) or task.outcome == outcome
            assert same or (task.run.lane, task.turn) in history.diverged, (
                f"turn {task.turn} of {task.run.lane} had two outcomes, and nobody was told"
            )


def _is_of(record: Any, request: Any) -> bool:
    """Return whether an input is what a request asked for."""
    if type(request) is Submit:
        names = ("lane", "runs", "retry_of", "kind", "deadline_ms")
        return all(getattr(record, name) == getattr(request, name) for name in names)
    return all(getattr(record, name, value) == value for name, value in request._asdict().items() if name != "number")


def _is_final(request: Any, code: str) -> bool:
    """Return whether every copy of a request is refused, at any time: not for what others did or one worker found."""
    return code == "bad_payload" or (code == "bad_code" and not request.check)


def _is_verdict(outcome: Outcome | None) -> bool:
    return type(outcome) is Failed and outcome.kind in RECORDED_FAILURES
