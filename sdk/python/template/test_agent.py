"""Tests of NAME without a sandbox: python -m pytest"""

from agent import agent

from rota.agent.testing import call


def test_it_counts() -> None:
    first = call(agent, "hello")
    assert first.text == "hello: 1"
    assert call(agent, "again", state=first.state).text == "again: 2"
