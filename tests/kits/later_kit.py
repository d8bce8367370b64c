"""Steps of tests about answers that come later: a task run to its end, and what came of it."""

from __future__ import annotations

from typing import Any

from core_kit import Broker
from scripted import program


def done(broker: Broker, producer: Any, target: str, *steps: Any, **options: Any) -> int:
    """Submit a task, let everything run, and return its seq."""
    seq = producer.submit(target, program(*steps), **options).first_seq
    broker.run()
    return int(seq)


def outcome(broker: Broker, seq: int) -> Any:
    """Return the final outcome of a task; None if it is not kept or pending."""
    task = broker.core.world.results.find(seq)
    return None if task is None else task.outcome
