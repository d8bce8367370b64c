"""The fixtures `make_broker`, `broker`, `alice`: the core in a test. Every broker is checked at the end of its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from core_kit import Broker
from scripted import FLOW, FUNCTION_CODE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="record the golden transcripts of tests/broker anew")


@pytest.fixture
def make_broker() -> Iterator[Callable[..., Broker]]:
    """Make brokers; after the test, assert their invariants and that their journals fold to the same world."""
    made: list[Broker] = []

    def make(**settings: Any) -> Broker:
        made.append(Broker(**settings))
        return made[-1]

    yield make
    for one in made:
        one.check()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    """A broker with the agent `counter` deployed in lane main by producer `alice`, and no worker."""
    made = make_broker()
    made.producer("setup").deploy("counter")
    return made


@pytest.fixture
def alice(broker: Broker) -> Any:
    """A producer of a broker with a worker, the agents `counter` and `function`, and the flow `flow`."""
    broker.worker()
    made = broker.producer()
    made.deploy("function", FUNCTION_CODE)
    made.deploy("flow", FLOW)
    return made
