"""The faults that scripts/mutate.py plants: each breaks one promise in one place, and names the tests that must see it.

`text` occurs exactly once in its file; tests/test_mutations.py checks that, so that the list follows changes of the
code. A new promise of the core gets its fault here. If one survives, the suite lacks a test: write it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from _mutations_calls import CALL_FAULTS
from _mutations_code import CODE_FAULTS
from _mutations_fence import FENCE_FAULTS
from _mutations_guests import GUEST_FAULTS
from _mutations_images import IMAGE_FAULTS
from _mutations_models import MODEL_FAULTS
from _mutations_records import FAULTS
from _mutations_texts import TEXT_FAULTS
from _mutations_wasi import WASI_FAULTS

_LANE: Final = ("tests/broker/test_lane.py",)
_CORE: Final = ("tests/broker/test_lane.py", "tests/broker/test_requests.py", "tests/broker/test_reference.py")
_WORKERS: Final = ("tests/broker/test_workers.py",)
_BUDGET: Final = ("tests/broker/test_budget.py",)
_AWAITS: Final = ("tests/broker/test_awaits.py",)
_UNDONE: Final = ("tests/broker/test_undone.py",)
_DISPATCH: Final = ("tests/broker/test_dispatch.py", "tests/broker/test_workers.py", "tests/broker/test_lane.py")
_REQUESTS: Final = ("tests/broker/test_requests.py",)
_JOURNAL: Final = ("tests/broker/test_records.py", "tests/broker/test_journal.py")
_LOG: Final = ("tests/broker/test_log.py", "tests/broker/test_run_file.py")
_SHELL: Final = ("tests/broker/test_server.py",)
_CPU: Final = ("tests/cpu_worker/test_executor.py", "tests/cpu_worker/test_call_paths.py")
_SNAPSHOT: Final = ("tests/broker/test_snapshot.py",)


class Mutation(NamedTuple):
    """One fault: what it breaks, where, and which tests are run against it."""

    name: str
    promise: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]


MUTATIONS: Final = (
    # --- order ----------------------------------------------------------------------------------------------------
    Mutation(
        "starved-tie-break", "of starved levels the oldest task goes first", "broker/lane.py",
        "return min(starved, key=", "return max(starved, key=", _LANE,
    ),
    Mutation(
        "priority-ignored", "the highest priority is issued first", "broker/lane.py",
        "        return self._levels[-1]\n", "        return self._levels[0]\n", _LANE,
    ),
    Mutation(
        "starvation-ignored", "a level that was passed over too often is issued next", "broker/lane.py",
        "        if starved:\n", "        if starved and bound < 0:\n", _LANE,
    ),
    Mutation(
        "retire-out-of-order", "only the head of the line retires", "broker/lane.py",
        "self._recorded = opened.settings.policy == RECORDED_POLICY", "self._recorded = True", _LANE,
    ),
    Mutation(
        "retire-all-then-issue", "issue runs after every single retire", "broker/lane.py",
        "            self._retire(order.popleft())\n",
        "            while order and order[0].outcome is not None:\n                self._retire(order.popleft())\n",
        _CORE,
    ),
    Mutation(
        "window-ignored", "the line holds as many tasks as the window", "broker/lane.py",
        "and not self.paused and self.line_count < self.window:", "and not self.paused:", _LANE,
    ),
    Mutation(
        "pause-ignored", "a paused lane issues nothing", "broker/lane.py",
        "while self.waiting_count and not self.paused and", "while self.waiting_count and", _LANE,
    ),
    Mutation(
        "agent-twice-at-once", "the tasks of one agent run one after another", "broker/dispatch.py",
        "                queue.busy = True\n", "                queue.busy = False\n", _DISPATCH,
    ),
    Mutation(
        "given-back-reversed", "tasks of a dead worker run again in their order", "broker/dispatch.py",
        "queue.tasks.extendleft(reversed(unfinished))", "queue.tasks.extendleft(unfinished)", (*_DISPATCH, *_CORE),
    ),
    *[Mutation(*fault) for fault in (*FAULTS, *CODE_FAULTS, *MODEL_FAULTS, *TEXT_FAULTS)],
    *[Mutation(*fault) for fault in (*WASI_FAULTS, *FENCE_FAULTS, *IMAGE_FAULTS, *GUEST_FAULTS, *CALL_FAULTS)],
    # --- effects --------------------------------------------------------------------------------------------------
    Mutation(
        "lost-emit", "every emitted task is stamped", "broker/lane_answers.py",
        "for index, emit in enumerate(done.emits):", "for index, emit in enumerate(done.emits[:1]):", _CORE,
    ),
    Mutation(
        "emits-reversed", "emitted tasks are stamped in their order", "broker/lane_answers.py",
        "for index, emit in enumerate(done.emits):", "for index, emit in [*enumerate(done.emits)][::-1]:", _CORE,
    ),
    Mutation(
        "state-of-a-failure", "a failed task leaves the state as it was", "cpu_worker/executor.py",
        "outcome, changed = Failed(fault.kind, fault.message, log.lines(), sandbox.fuel_used), None",
        'outcome, changed = Failed(fault.kind, fault.message, log.lines(), sandbox.fuel_used), b"leaked"', _CPU,
    ),
    Mutation(
        "state-not-threaded", "each task of a fold sees the state of the one before", "cpu_worker/executor.py",
        "                state = new_state = changed\n", "                new_state = changed\n", _CPU,
    ),
    Mutation(
        "reply-to-the-wrong-turn", "a reply names the turn that it answers", "broker/lane_answers.py",
        "reply_to = ReplyTo(origin[0], *asked.parent)", "reply_to = ReplyTo(asked.parent[0], *asked.parent)", _CORE,
    ),
    Mutation(
        "timer-fires-twice", "a timer fires once", "broker/lane.py",
        "timer = self.timers.pop((record.turn, record.index_of_emit))",
        "timer = self.timers[(record.turn, record.index_of_emit)]", ("tests/broker/test_journal_rules.py",),
    ),
    Mutation(
        "allowance-not-reserved", "room for what the line may emit is kept free", "broker/lane.py",
        "self.settings.tasks_max - self.load - self.reserved", "self.settings.tasks_max - self.load", _LANE,
    ),
    Mutation(
        "room-not-reserved-in-bytes", "room for what the line may add in bytes is kept free", "broker/lane_budget.py",
        " - self.state_bytes - self.reserved_bytes", " - self.state_bytes",
        _BUDGET,
    ),
    Mutation(
        "state-counted-at-completion", "a lane counts states as its last retired task left them", "broker/lane.py",
        "            self.agents[fold.address].state = fold.state\n",
        "            agent = self.agents[fold.address]\n            agent.state = fold.state\n"
        "            self.budget.state_bytes += len(fold.state) - agent.counted_bytes\n"
        "            agent.counted_bytes = len(fold.state)\n",
        _BUDGET,
    ),
    Mutation(
        "growth-not-checked", "a worker cannot grow a lane past the room reserved for the task", "broker/workers.py",
        "        if growth > task.growth_bytes and growth > task.growth_max:\n", "        if growth > 1 << 30:\n",
        _WORKERS,
    ),
    Mutation(
        "growth-not-limited", "a task grows its lane by what its code allows", "cpu_worker/abi.py",
        "    if growth > most:\n", "    if growth > 1 << 30:\n", ("tests/cpu_worker/test_abi.py",),
    ),
    Mutation(
        "reply-without-room", "a reply has its room", "broker/replies.py",
        "    if size > left:\n", "    if size > 1 << 30:\n", _BUDGET,
    ),
    Mutation(
        "agents-without-end", "a lane has a number of agents", "broker/lane.py",
        "            if len(self.agents) >= agents_max:\n", "            if False:\n", _BUDGET,
    ),
    Mutation(
        "dead-letters-by-number", "dead letters are bounded in bytes", "broker/dead_letters.py",
        "len(self._by_seq) > DEAD_TASKS_MAX or self.bytes > self.bytes_max", "len(self._by_seq) > DEAD_TASKS_MAX",
        _BUDGET,
    ),
    Mutation(
        "logs-not-counted", "kept results count their logs", "common/budget.py",
        "sum([LINE_BYTES + len(line) for line in lines])", "0", _BUDGET,
    ),
    Mutation(
        "far-ahead-of-the-head", "what waits behind a slow head is bounded in bytes", "broker/dispatch.py",
        "lane.budget.unretired_bytes > UNRETIRED_BYTES_MAX", "lane.budget.unretired_bytes < 0", _DISPATCH,
    ),
    Mutation(
        "door-without-bytes", "producers leave half of a lane to its own tasks", "broker/lane_budget.py",
        "(self.bytes_max - self.state_bytes) // 2", "self.bytes_max - self.state_bytes", _BUDGET,
    ),
    Mutation(
        "caught-twice", "a task that was caught is not caught again", "broker/lane.py",
        "            return run.verdicts is None or index not in run.verdicts\n", "            return True\n", _CORE,
    ),
    Mutation(
        "cancelled-task-runs", "a task that was caught while it waited is not executed", "broker/lane.py",
        "verdict = task.run.verdicts.get(task.index) if task.run.verdicts else None\n", "verdict = None\n",
        _REQUESTS,
    ),
    Mutation(
        "caught-task-is-told-late", "the outcome of a task that is caught while it waits is sent at once",
        "broker/lane.py", "self._notes.caught.append(caught_task(run, index, failure))\n", "pass\n", _REQUESTS,
    ),
    Mutation(
        "caught-task-is-told-twice", "an outcome is sent once", "broker/state.py",
        "tasks = [task for task in tasks if task.index not in run.verdicts]", "pass", _REQUESTS,
    ),
    Mutation(
        "await-forgets-the-caught", "a final outcome is there to be asked for", "broker/awaits.py",
        "    failure = run.verdicts.get(index) if index >= run.issued else None\n", "    failure = None\n", _REQUESTS,
    ),
    Mutation(
        "completed-task-caught", "a task that has completed can no longer be caught", "broker/lane.py",
        "        return task is not None and task.outcome is None\n", "        return task is not None\n", _CORE,
    ),
    Mutation(
        "code-bound-at-dispatch", "code is bound when a task is issued", "broker/orders.py",
        "codes.setdefault(first.code, len(codes))",
        'codes.setdefault(lane.deploys[first.address.split("/")[0]], len(codes))', _DISPATCH,
    ),
    # --- what a task sees -----------------------------------------------------------------------------------------
    Mutation(
        "agents-see-the-seq", "agents see the turn, never the seq", "broker/orders.py",
        "tuple([task.turn for task in row]),", "tuple([task.seq for task in row]),", _CORE,
    ),
    Mutation(
        "entropy-without-the-turn", "every turn has entropy of its own", "common/digests.py",
        'hasher.update(seed + turn.to_bytes(8, "little"))', "hasher.update(seed)", ("tests/broker",
        "tests/cpu_worker/test_executor.py"),
    ),
    Mutation(
        "entropy-without-the-seed", "entropy is keyed by the lane's seed", "broker/orders.py",
        "return Assign(number, lane.seed,", "return Assign(number, bytes(32),", _LANE,
    ),
    Mutation(
        "another-time", "an emitted task has the time of the input it descends from", "broker/lane_answers.py",
        "self._stamp_one(emit, task.address, task.run.now_ms, (task.turn, index))",
        "self._stamp_one(emit, task.address, task.run.now_ms + 1, (task.turn, index))", _CORE,
    ),
    # --- digests --------------------------------------------------------------------------------------------------
    Mutation(
        "digest-without-the-state", "the lane digest covers the new state", "broker/turn_content.py",
        "        task.state_digest,\n    )\n", "        None,\n    )\n", _CORE,
    ),
    Mutation(
        "digest-without-the-emits", "the lane digest covers the emitted tasks", "common/work.py",
        "return (_DONE, outcome.result, outcome.tensors, outcome.emits)",
        "return (_DONE, outcome.result, outcome.tensors, ())", _CORE,
    ),
    Mutation(
        "digest-of-a-failed-state", "a failed task has no state digest", "broker/lane.py",
        "            task.state_digest = agent.state_digest\n",
        "        task.state_digest = agent.state_digest\n", _CORE,
    ),
    Mutation(
        "chain-not-checked", "a changed record is found", "broker/journal.py",
        "            if chain != link(self._end.chain, body):\n", "            if chain is None:\n", _JOURNAL,
    ),
    Mutation(
        "mark-not-checked", "a fold of the journal comes to the digests in it", "broker/world.py",
        "if (lane.retired, lane.digest) != (record.retired, record.digest):", "if lane.retired != record.retired:",
        _JOURNAL,
    ),
    Mutation(
        "position-not-checked", "an input takes effect at its position", "broker/world.py",
        "        if lane.retired != record.position:\n", "        if record.position < 0:\n",
        (*_JOURNAL, "tests/broker/test_journal_rules.py"),
    ),
    Mutation(
        "first-seq-not-checked", "numbers are dense and never reused", "broker/world.py",
        "        if record.first_seq != self.next_seq:\n", "        if record.first_seq < 1:\n",
        (*_JOURNAL, "tests/broker/test_journal_rules.py"),
    ),
    Mutation(
        "seq-reused", "numbers are dense and never reused", "broker/notes.py",
        "        self.next_seq += tasks\n", "        self.next_seq += 1\n", _CORE,
    ),
    Mutation(
        "other-encodings-taken", "one record has one encoding", "broker/records.py",
        "        if encode(record) != body:\n", "        if not body:\n", _JOURNAL,
    ),
    # --- durability -----------------------------------------------------------------------------------------------
    Mutation(
        "ack-before-fsync", "an acknowledgement waits for the fsync of its input", "broker/server.py",
        "        self._take(effects)\n        if not waiting",
        "        self._take(effects)\n        self._send_all(waiting._sends)\n        if not waiting", _SHELL,
    ),
    Mutation(
        "replies-do-not-wait", "an answer about a record waits for it", "broker/state.py",
        "self.effects.after.append(Send(socket, identity, message))",
        "self.effects.now.append(Send(socket, identity, message))",
        ("tests/broker/test_sequencer.py", "tests/broker/test_requests.py"),
    ),
    Mutation(
        "record-not-written", "every change of a lane is written down", "broker/state.py",
        "        self.effects.records.append(record)\n", "", ("tests/broker/test_requests.py",),
    ),
    Mutation(
        "batch-lost-when-full", "records that could not be written are tried again", "broker/server.py",
        "            self._journal.append(waiting.unwritten)\n",
        "            batch, waiting.unwritten = waiting.unwritten, ()\n            self._journal.append(batch)\n",
        _SHELL,
    ),
    Mutation(
        "no-fsync", "a commit returns when it is on the disk", "broker/sqlite_file.py",
        "PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF", ("tests/broker/test_journal.py",),
    ),
    # --- requests and results -------------------------------------------------------------------------------------
    Mutation(
        "dedupe-forgotten", "a request that is sent again has no second effect", "broker/requests.py",
        "    answer = broker.world.producers.old_answer(origin)\n    is_new", "    answer = None\n    is_new",
        _REQUESTS,
    ),
    Mutation(
        "debts-out-of-turn", "a connection that was sent its part waits behind the others", "broker/debts.py",
        "        del self._ready[identity]\n", "", _AWAITS,
    ),
    Mutation(
        "step-without-end", "a step sends and looks up so much and no more", "broker/awaits.py",
        "        if results >= RESULTS_PER_STEP or size >= RESULT_BYTES_PER_STEP or looks >= LOOKS_PER_STEP:\n",
        "        if False:\n", _AWAITS,
    ),
    Mutation(
        "slow-reader-paid", "a connection that does not read is sent no more", "broker/debts.py",
        "            self._slow[identity] = None\n            self._ready.pop(identity, None)\n", "            pass\n",
        _AWAITS,
    ),
    Mutation(
        "zeromq-holds-it-all", "data in ZeroMQ's queues is bounded in bytes", "broker/outbox.py",
        "        if full and (queue.given or self.in_flight_bytes):\n", "        if False:\n",
        ("tests/broker/test_outbox.py",),
    ),
    Mutation(
        "old-peers-taken", "connections that are no ZMTP end", "host/sockets.py",
        '    made.set(zmq.ZAP_DOMAIN, b"rota")\n', "", ("tests/host/test_sockets.py",),
    ),
    Mutation(
        "number-reuse-unseen", "other content under a number is refused", "broker/producers.py",
        "        if answered.request != origin.request:\n", "        if not origin.request:\n", _REQUESTS,
    ),
    Mutation(
        "resent-under-a-new-number", "a client sends a request again under its old number", "client/session.py",
        "self._out.extend(opened.frame for opened in self._open.values())",
        "self._out.extend(\n            encode(decode(opened.frame)._replace(number=self.take_number()))\n"
        "            for opened in list(self._open.values())\n        )",
        ("tests/client/test_session.py", "tests/client/test_session_with_core.py"),
    ),
    Mutation(
        "result-seen-twice", "each result is seen once", "client/session.py",
        "            if item.seq in self._pending:\n                del self._pending[item.seq]\n",
        "            if item.seq in self._pending:\n", ("tests/client/test_session.py",),
    ),
    # --- the schema -----------------------------------------------------------------------------------------------
    Mutation(
        "record-in-another-form", "one record has one encoding", "broker/records.py",
        "        if encode(record) != body:\n", "        if len(encode(record)) > len(body):\n", _JOURNAL,
    ),
    Mutation(
        "blob-of-another-size", "the lengths of a column come to its blob", "common/columns.py",
        "    if total != len(data):\n", "    if total > len(data):\n", ("tests/common/test_columns.py",),
    ),
    Mutation(
        "sparse-in-any-order", "indexes of a sparse column rise and are in its row", "common/columns.py",
        "        if not last < index < count:\n", "        if not index < count:\n", ("tests/common/test_wire.py",),
    ),
    Mutation(
        "field-left-out", "a message has all of its fields", "common/work.py",
        "    cls._field_defaults = {}  # type: ignore[attr-defined]\n", "", ("tests/common/test_wire.py",),
    ),
    # --- workers --------------------------------------------------------------------------------------------------
    Mutation(
        "second-completion-wins", "the first completion wins", "broker/lane.py",
        '        assert task.outcome is None, f"turn {task.turn} completes twice"\n', "",
        (*_JOURNAL, "tests/broker/test_journal_rules.py"),
    ),
    Mutation(
        "divergence-unreported", "a second completion with another digest is reported", "broker/workers.py",
        "elif task.outcome != outcome and not was_decided(task.outcome) and _is_comparable(task, source):\n",
        "elif task.seq < 0:\n", _WORKERS,
    ),
    Mutation(
        "completion-of-another", "a worker is trusted only about what it holds", "broker/workers.py",
        "    if assignment is None or worker is None or assignment.worker is not worker:\n",
        "    if assignment is None or worker is None:\n", _WORKERS,
    ),
    Mutation(
        "numbers-of-an-older-boot", "an answer to an older broker is no answer to this one", "broker/dispatch.py",
        "        self._next_number = (boot << 32) + 1\n", "        self._next_number = 1\n", _WORKERS,
    ),
    Mutation(
        "state-digest-unchecked", "a worker's state must match its digest", "broker/workers.py",
        "    if (None if result.state is None else digest(result.state)) != left:\n",
        "    if result.state == b\"\\0\" * 99:\n", _WORKERS,
    ),
    Mutation(
        "emits-unchecked", "a worker cannot hand in more emits than allowed", "broker/workers.py",
        "    if len(done.emits) + (done.waits is not None) > task.emits_max:\n", "    if False:\n", _WORKERS,
    ),
    Mutation(
        "timers-of-others", "a worker cannot hand in a timer for another target", "broker/workers.py",
        " and emit.target != queue.address:\n            raise ProtocolError(f\"{queue.address}: a {emit.kind} for",
        " and not emit.target:\n            raise ProtocolError(f\"{queue.address}: a {emit.kind} for", _WORKERS,
    ),
    Mutation(
        "poison-cap-off-by-one", "a task that killed its workers three times is lost", "broker/workers.py",
        "task.trouble.deaths >= POISON_DEATHS_MAX", "task.trouble.deaths > POISON_DEATHS_MAX", _WORKERS,
    ),
    Mutation(
        "deploy-kills-for-ever", "a deploy whose check killed three workers is refused", "broker/pending_deploys.py",
        "pending.deaths >= POISON_DEATHS_MAX", "pending.deaths < 0", _REQUESTS,
    ),
    Mutation(
        "deploys-suspected-together", "suspected deploys are checked one at a time", "broker/pending_deploys.py",
        "        return any(one.pool == pending.pool for one in asked)\n", "        return False\n", _REQUESTS,
    ),
    Mutation(
        "suspects-travel-together", "a suspect runs alone, so that the cap counts the right one", "broker/dispatch.py",
        "queues[0].lane, alone=suspect)", "queues[0].lane, alone=False)", _WORKERS,
    ),
    Mutation(
        "fault-spreads", "a task that cannot be done fails alone", "broker/undone.py",
        "        _tell(broker, worker, left[0], \"faulted\", result.reason)\n",
        "        _tell(broker, worker, left[0], \"faulted\", result.reason)\n"
        "        for task in left[1:]:\n            judge(broker, task, FAULTED)\n", _UNDONE,
    ),
    Mutation(
        "fault-tried-at-the-same-worker", "a task that cannot be done here is tried elsewhere", "broker/dispatch.py",
        "        trouble.faulted_on += (worker.number,)\n", "", _UNDONE,
    ),
    Mutation(
        "one-refusal-decides", "code is refused when no worker there can run it", "broker/dispatch.py",
        "        able = self._able(self._pools[worker.settings.pool])\n", "        able = [worker]\n", _UNDONE,
    ),
    Mutation(
        "stuck-worker-gets-work", "a worker that is stuck takes nothing", "broker/dispatch.py",
        "            and not self.stuck\n", "", _UNDONE,
    ),
    Mutation(
        "compiling-is-running", "the time of a task does not run while its code is compiled", "broker/dispatch.py",
        "                assignment.deadline_ms = max(assignment.deadline_ms, deadline_ms)\n",
        "                assignment.deadline_ms = min(assignment.deadline_ms, deadline_ms)\n", _UNDONE,
    ),
    Mutation(
        "stuck-job-answered-twice", "a job that does not stop is answered once", "worker/session.py",
        "        is_wanted = not job.is_answered and job.begun_dropping_ms is None\n",
        "        is_wanted = job.begun_dropping_ms is None\n", ("tests/worker/test_session.py",),
    ),
    Mutation(
        "work-of-an-older-boot-reported", "a worker never reports work of an older boot", "worker/session.py",
        "            if job.boot != boot:\n", "            if boot < 0:\n", ("tests/worker/test_session.py",),
    ),
    Mutation(
        "component-bytes-uncounted", "an answer is counted before it is copied", "cpu_worker/component_values.py",
        "        if self._left < 0:\n", "        if not self._left:\n", ("tests/cpu_worker/test_components.py",),
    ),
    # --- sandbox --------------------------------------------------------------------------------------------------
    Mutation(
        "trapped-instance-kept", "after a trap an instance is not used again", "cpu_worker/sandbox.py",
        "            guest.close()\n            if not isinstance(end",
        "            self._kept = guest if self._code.reuse else None\n            if not isinstance(end", _CPU,
    ),
    Mutation(
        "instance-always-kept", "a fresh instance for each task unless deployed with reuse", "cpu_worker/sandbox.py",
        "        if self._code.flow or (self._reuse and not guest.has_grown()):\n",
        "        if not guest.has_grown():\n", _CPU,
    ),
    Mutation(
        "grown-instance-kept", "an instance whose memory grew is not used again", "cpu_worker/sandbox.py",
        "        if self._code.flow or (self._reuse and not guest.has_grown()):\n",
        "        if self._code.flow or self._reuse:\n", _CPU,
    ),
    Mutation(
        "floats-of-the-thread", "no setting of the host's floats shows in a result", "cpu_worker/sandbox.py",
        "        self._floats.begin()\n",
        "        self._floats.begin()\n        self._floats.end()\n", ("tests/cpu_worker/test_executor.py",),
    ),
    Mutation(
        "refused-memory-unseen", "memory that the host refuses is never part of a result", "cpu_worker/sandbox.py",
        "            if self._memories.refusal or self.hosts.tensors.fault:\n",
        "            if not answer and self._memories.refusal:\n", ("tests/cpu_worker/test_host_memory.py",),
    ),
    Mutation(
        "fuel-not-reset", "each task has all of its fuel", "cpu_worker/raw_store.py",
        "    def _give(self, fuel: int) -> None:\n",
        "    def _give(self, fuel: int) -> None:\n        fuel = self.fuel_left() or fuel\n", _CPU,
    ),
    Mutation(
        "fuel-off-by-one", "the fuel limit is exact", "cpu_worker/sandbox.py",
        "guest.call(data, fuel=fuel + 1)",
        "guest.call(data, fuel=fuel + 2)", _CPU,
    ),
    # --- tensors and snapshots ------------------------------------------------------------------------------------
    Mutation(
        "tensor-of-a-waiting-task", "a tensor that a task names is not collected", "broker/world.py",
        "                refs += [ref for _, tensors in run.tensors for ref in tensors]\n",
        "                refs += []\n",
        ("tests/broker/test_tensors_in_use.py",),
    ),
    Mutation(
        "tensor-of-a-timer", "a tensor that a timer names is not collected", "broker/world.py",
        "                refs += timer.emit.tensors\n", "                refs += ()\n",
        ("tests/broker/test_tensors_in_use.py",),
    ),
    Mutation(
        "lease-not-renewed", "a tensor in use by lease is not collected", "tensors/store.py",
        "                size = unlink(path) if _is_older(path, oldest_s) else 0\n",
        "                size = unlink(path)\n",
        ("tests/tensors/test_store.py",),
    ),
    Mutation(
        "snapshot-forgets-timers", "a snapshot is the whole state", "broker/snapshot.py",
        "timers=[(place, timer) for place, lane in lanes for timer in lane.timers.values()],", "timers=[],", _SNAPSHOT,
    ),
    Mutation(
        "snapshot-forgets-verdicts", "a snapshot is the whole state", "broker/snapshot.py",
        "return tuple(sorted(run.verdicts.items())) if run.verdicts else ()", "return ()", _SNAPSHOT,
    ),
    Mutation(
        "snapshot-forgets-answers", "a snapshot is the whole state", "broker/snapshot.py",
        "producers=world.producers.image(),", "producers=[],", _SNAPSHOT,
    ),
    Mutation(
        "snapshot-forgets-digests", "a snapshot is the whole state", "broker/snapshot.py",
        "task.issued_at, task.state_digest, task.provenance = row.issued_at, row.state_digest, row.provenance",
        "task.issued_at, task.provenance = row.issued_at, row.provenance", _SNAPSHOT,
    ),
    Mutation(
        "snapshot-not-compared", "a snapshot in a run is what its records give", "runs/snapshot_check.py",
        "if _digest_of(snapshot.encode(picture)) != said:", "if _digest_of(snapshot.encode(picture))[0] != said[0]:",
        ("tests/runs/test_snapshot_check.py",),
    ),
    Mutation(
        "snapshot-chain-not-compared", "a name of a snapshot has the chain that is there", "broker/journal.py",
        "if chains != [named.chain]:", "if not chains:", ("tests/runs/test_snapshot_check.py",),
    ),
    # --- the proof ------------------------------------------------------------------------------------------------
    Mutation(
        "state-size-believed", "the size of a state is that of its bytes", "broker/world.py",
        "changed[-1].state_bytes != len(fold.state):", "changed[-1].state_bytes < 0:",
        ("tests/broker/test_journal_rules.py", "tests/proof/test_divergence.py"),
    ),
    Mutation(
        "inner-state-size-believed", "verify compares the sizes of states", "proof/verify.py",
        "told = [(task.turn, task.turn_digest, state_bytes(task)) for", "told = [(task.turn, task.turn_digest) for",
        ("tests/proof/test_divergence.py",),
    ),
    Mutation(
        "replay-skips-a-position", "a replay lets inputs take effect where they did", "proof/replay.py",
        "        yield from self.run_to(record.position)\n", "        yield from self.run_to(record.position - 1)\n",
        ("tests/proof/test_changed.py", "tests/proof/test_divergence.py"),
    ),
    Mutation(
        "replay-believes-everything", "a replay executes the turns that it proves", "proof/replay.py",
        "return self._trusted is not None and all(map(self._trusted, fold.turns))", "return True",
        ("tests/proof/test_changed.py", "tests/proof/test_divergence.py"),
    ),
    Mutation(
        "verify-compares-turns-only", "verify compares every digest", "proof/verify.py",
        "told = [(task.turn, task.turn_digest, state_bytes(task)) for", "told = [(task.turn,) for",
        ("tests/proof/test_divergence.py",),
    ),
    Mutation(
        "split-keeps-seqs", "a lane in a world of its own has turns for seqs", "broker/lane.py",
        "            run.first_seq = run.first_turn\n",
        "            run.first_seq = max(run.first_seq, run.first_turn)\n", ("tests/runs/test_walk.py",),
    ),
    Mutation(
        "split-shares-notes", "changes of a split lane are seen in its world", "broker/lane.py",
        "        self._numbering, self._notes = numbering, notes\n",
        "        self._numbering = numbering\n", ("tests/runs/test_walk.py",),
    ),
    Mutation(
        "step-finds-what-was-left", "a step has the states that its folds found", "runs/walk.py",
        "            left[fold.address] = _left(fold, before)\n",
        "            left[fold.address] = before\n", ("tests/runs/test_walk.py",),
    ),
    Mutation(
        "upgrade-counts-any-name", "an upgrade is judged by the turns of its name", "proof/changed.py",
        "        return (code_name(task.address), task.code.digest) in self._brought\n",
        "        return task.code.digest in [digest for _, digest in self._brought]\n",
        ("tests/proof/test_changed.py",),
    ),
    Mutation(
        "seal-not-checked", "a packed run cannot be altered unseen", "runs/archive.py",
        '    if _seal_of(stream).encode("ascii") != said:\n', "    if not said:\n", ("tests/runs/test_export.py",),
    ),
    Mutation(
        "answer-ahead-of-its-events", "a watcher that reads and then follows misses nothing", "broker/state.py",
        "event=self._told)", "event=self._told + 1)", ("tests/broker/test_queries.py",),
    ),
    Mutation(
        "door-stays-open", "no number of connections ends a broker", "host/open_files.py",
        "if not self._is_shut and used >= self._shut_at:", "if not self._is_shut and used >= 100 * self._shut_at:",
        ("tests/processes/test_connections.py",),
    ),
    Mutation(
        "old-writer-not-fenced", "a newer epoch fences older writers", "broker/run_file.py",
        "chain = ? WHERE epoch = ? AND last = ? AND chain = ?", "chain = ? WHERE epoch >= ? AND last = ? AND chain = ?",
        _LOG,
    ),
    Mutation(
        "removed-files-not-noticed", "nothing is acknowledged into files that are gone", "broker/run_file_end.py",
        "            if found != opened:\n", "            if found is opened is None:\n", _LOG,
    ),
    Mutation(
        "lost-records-not-missed", "records that were acknowledged are missed", "broker/run_file.py",
        "if noted.number > last or any(", "if any(", _LOG,
    ),
    Mutation(
        "lost-wal-not-missed", "a file that was not closed in order has its WAL", "broker/run_file.py",
        "if noted_end(self.path) is None and self._file.rows(",
        "if noted_end(self.path) is not None and self._file.rows(", _LOG,
    ),
    Mutation(
        "snapshot-not-checked", "a snapshot that was changed is not used", "broker/snapshot_store.py",
        "if (size, hasher.digest()) != (snapshot.size_bytes, snapshot.digest):", "if size != snapshot.size_bytes:",
        ("tests/broker/test_snapshot_store.py",),
    ),
)  # fmt: skip
