"""Tests of NAME in the sandbox: python -m pytest"""

from pathlib import Path

HERE = Path(__file__).parent


def test_it_puts_the_answers_together(rota_lane) -> None:
    rota_lane.deploy("echo", HERE / "echo.js")
    rota_lane.deploy("NAME", HERE / "flow.js")
    answer = rota_lane.ask("NAME", b"hello").result()
    assert answer.payload == b"hello, first; hello, second; unknown_agent"
