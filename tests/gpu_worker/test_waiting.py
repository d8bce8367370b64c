"""Whose turn it is: counted in steps, with calls that are only names."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from rota.gpu_worker.waiting import WaitingCalls


class Waiter(NamedTuple):
    number: int
    lane: bytes
    shape: str
    rows: int = 1
    rows_max: int = 0


def taken(waiting: WaitingCalls[Waiter]) -> list[list[int]]:
    steps = []
    while waiting:
        steps.append([call.number for call in waiting.take()])
    return steps


def test_a_batch_has_the_rows_that_fit_in_order_of_arrival() -> None:
    """Goal: rows count, not calls, and nobody is overtaken. Method: calls of 1 to 5 rows, batches of 8."""
    waiting: WaitingCalls[Waiter] = WaitingCalls()
    for number, rows in enumerate((3, 5, 1, 4, 4, 5, 2)):
        waiting.add(Waiter(number, b"a", "x", rows, 8))
    assert taken(waiting) == [[0, 1], [2, 3], [4], [5, 6]]


def test_a_call_that_rides_alone_takes_nobody() -> None:
    """Goal: `rows_max` 0, or a call as large as the batch, is a step of its own."""
    waiting: WaitingCalls[Waiter] = WaitingCalls()
    for number, (rows, rows_max) in enumerate(((1, 0), (8, 8), (1, 8), (8, 8), (1, 8))):
        waiting.add(Waiter(number, b"a", "x", rows, rows_max))
    assert taken(waiting) == [[0], [1], [2], [3], [4]]


def test_lanes_share_a_batch_in_turn() -> None:
    """Goal: no lane fills a batch while another waits. Method: a flood beside two lanes with three calls each."""
    waiting: WaitingCalls[Waiter] = WaitingCalls()
    for number in range(100):
        waiting.add(Waiter(number, b"flood", "x", 1, 8))
    for number in range(3):
        waiting.add(Waiter(100 + number, b"b", "x", 1, 8))
        waiting.add(Waiter(200 + number, b"c", "x", 1, 8))
    first, second, *_ = taken(waiting)
    assert first == [0, 100, 200, 1, 101, 201, 2, 102]
    assert 202 in second


def test_a_flood_delays_nobody_by_more_than_the_bound() -> None:
    """Goal: the head of a queue runs after at most lanes x shapes of its lane steps, however many calls wait elsewhere.
    Method: random lanes and shapes with floods; the longest wait of each head, in steps, against that product."""
    for seed in range(20):
        random = Random(seed)
        waiting: WaitingCalls[Waiter] = WaitingCalls()
        lanes = [bytes([lane]) for lane in range(random.randint(1, 5))]
        shapes = [str(shape) for shape in range(random.randint(1, 5))]
        number = 0
        for lane in lanes:
            for shape in shapes:
                for _ in range(random.choice((1, 2, 200))):
                    waiting.add(Waiter(number, lane, shape, random.randint(1, 4), random.choice((0, 8))))
                    number += 1
        since: dict[tuple[bytes, str], int] = {}
        step = 0
        while waiting:
            heads = dict.fromkeys((call.lane, call.shape) for call in waiting)
            since = {key: since.get(key, step) for key in heads}
            step += 1
            for call in waiting.take():
                since.pop((call.lane, call.shape), None)
            assert all(step - began <= len(lanes) * len(shapes) for began in since.values()), seed


def test_singles_come_first_and_alone() -> None:
    """Goal: the members of a batch that failed run one by one before others."""
    waiting: WaitingCalls[Waiter] = WaitingCalls()
    waiting.add(Waiter(1, b"a", "x", 1, 8))
    for number in (2, 3):
        waiting.add_single(Waiter(number, b"a", "x", 1, 8))
    assert taken(waiting) == [[2], [3], [1]]
