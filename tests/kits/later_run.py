"""Small runs with asks that are answered later and calls of a flow, for tests of inspection and the fuzzer.

They are driven step by step through a `Broker` of core_kit.py, so their numbers are fixed. Their docstrings describe
them; change both, and of `answered_later` the golden texts of tests/cli/test_inspect_calls.py.
"""

from __future__ import annotations

from run_kit import Broker, program, scripted


def answered_later() -> Broker:
    """A run in which

    - task 1 of alice begins a call of the flow `order`, which asks `counter/b` (2, reply 4) and `desk/a` (3);
    - 3 is postponed; 5 hands it on to `clerk/x` (6), which postpones it too; 7 settles it, so 8 answers the call;
    - the call sleeps 500 ms (9) and returns;
    - 10 of `desk/a` is postponed and cancelled by alice;
    - 11 fails a call of `order` in its first step;
    - 12 begins a call that asks `desk/b` (13) within a minute, which is postponed: both stay open;
    - 14 of `clerk/y` asks `desk/c` (15), which is postponed and cancelled by alice: 16 tells `clerk/y`;
    - 17 begins a call that asks `desk/c` (18) within half a second, which is postponed and expires: 19 tells the call.
    """
    broker = Broker()
    alice = broker.producer()
    for name in ("counter", "desk", "clerk"):
        alice.deploy(name, scripted.COUNTER)
    alice.deploy("order", scripted.FLOW)
    broker.worker("w1")
    asks = [["ask", "counter/b", [["add", 5]]], ["ask", "desk/a", [["postpone"]], 2]]
    alice.submit("order", program(["log", "began"], ["await", asks, 2], ["await", [["timer", 500, []]], 1]), kind="ask")
    broker.run()
    alice.submit("desk/a", program(["hand_on", -1, "clerk/x", [["postpone"]]]))
    broker.run()
    alice.submit("clerk/x", program(["settle", -1, 7]))
    broker.run()
    broker.live(1_000)
    broker.run()
    cancelled = alice.submit("desk/a", program(["postpone"]), kind="ask").first_seq
    broker.run()
    assert alice.cancel(cancelled)
    alice.submit("order", program(["fail", "no good"]), kind="ask")
    broker.run()
    alice.submit("order", program(["await", [["ask", "desk/b", [["postpone"]], 0, 60_000]], 1]), kind="ask")
    broker.run()
    alice.submit("clerk/y", program(["ask", "desk/c", [["postpone"]]]))
    broker.run()
    assert alice.cancel(15)
    broker.run()
    alice.submit("order", program(["await", [["ask", "desk/c", [["postpone"]], 0, 500]], 1]), kind="ask")
    broker.run()
    broker.live(1_000)
    broker.run()
    broker.check()
    return broker


def ended_by_inputs() -> Broker:
    """A run that stops where inputs have ended tasks that have not retired:

    - a call, asked for within a minute, was cancelled while a step of it is in the line, behind a slow function;
    - a task of `counter/a` was postponed, and cancelled before its retire;
    - in the lane `side`, `counter/d` has handed its task on, and the task is in the line.
    """
    broker = Broker()
    alice = broker.producer()
    for name, bound in (("counter", scripted.COUNTER), ("function", scripted.FUNCTION_CODE), ("flow", scripted.FLOW)):
        alice.deploy(name, bound)
    alice.open_lane("side", deploys_from="main")
    workers = [broker.worker(name, slots=1) for name in ("w1", "w2")]

    def finish(turn: int) -> None:
        next(worker for worker in workers if worker.turns() == [turn]).finish()

    asks = [["ask", "counter/b", []], ["ask", "counter/c", [["postpone"]]]]
    alice.submit("flow", program(["await", asks, 1], ["await", [], 1]), kind="ask", deadline_ms=60_000)
    finish(1)
    alice.submit("function")  # turn 4, which nobody finishes
    finish(3)
    finish(2)
    assert alice.cancel(1)
    finish(5)
    postponed = alice.submit("counter/a", program(["postpone"])).first_seq
    finish(6)
    assert alice.cancel(postponed)
    alice.submit("counter/c", program(["settle_failure", -1, "late"]))  # which answers nobody: the call has ended
    finish(7)
    alice.submit("counter/d", program(["hand_on", 0, "counter/e", [["postpone"]]]), lane="side")
    finish(1)
    broker.sync()
    main, side = broker.lane(), broker.lane("side")
    assert list(main.ended) == ["flow/~1"]
    assert [task.turn for task in main.line() if task.ends is not None] == [postponed]
    assert [task.run.answers for task in side.line()] == [1]
    return broker
