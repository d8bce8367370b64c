"""Tests of NAME in the sandbox: python -m pytest"""

from pathlib import Path

AGENT = Path(__file__).with_name("agent.ts")


def test_it_counts(rota_lane) -> None:
    rota_lane.deploy("NAME", AGENT)
    results = rota_lane.submit_many("NAME/main", [b"hello", b"again"]).results()
    assert [result.payload for result in results] == [b"hello: 1", b"again: 2"]
