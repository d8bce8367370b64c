"""Tests of NAME without a sandbox: python -m pytest"""

from flow import flow

from rota.agent.testing import AskFailed, Emit, FlowTest, run_flow


def answer(ask: Emit) -> bytes:
    """Answer as echo does; there is nobody else."""
    if ask.target.startswith("echo/"):
        return ask.payload
    raise AskFailed("unknown_agent", ask.target)


def test_it_puts_the_answers_together() -> None:
    assert run_flow(flow, "hello", answer).text == "hello, first; hello, second; unknown_agent"


def test_it_asks_both_at_once() -> None:
    with FlowTest(flow, "hello") as call:
        assert [ask.target for ask in call.asks] == ["echo/a", "echo/b"]
        call.answer("two", 1)
        call.answer("one")
        call.fail("too late", kind="expired")
        assert call.end is not None
        assert call.end.text == "one; two; expired"
