"""What people read of a failed task."""

from __future__ import annotations

import pytest
from click import Option

from rota.cli.code import deploy
from rota.common.calls import asks_overflow_text, bytes_overflow_text, steps_overflow_text
from rota.common.work import NO_MODEL_PAYLOAD, failure_text


@pytest.mark.parametrize(
    ("kind", "message", "option"),
    [
        ("overflow", "emits: 5, at most 4 (emits_max)", "--emits"),
        ("overflow", "emits and state: 9 bytes more, at most 8: 7 and 1 of its own content (growth_bytes)", "--growth"),
        ("overflow", asks_overflow_text(3), "--asks"),
        ("overflow", steps_overflow_text(3), "--steps"),
        ("overflow", bytes_overflow_text(3), "--call-bytes"),
        ("fuel", "out of fuel in rota_step", "--fuel"),
        ("fuel", "out of fuel in all in rota_step", "--call-fuel"),
        ("timeout", "it ran longer than 5 ms", "--timeout-ms"),
    ],
)
def test_a_bound_names_the_option_that_moves_it(kind: str, message: str, option: str) -> None:
    """Goal: whoever meets a bound reads what to do. Method: the message of each bound of a deploy."""
    text = failure_text(kind, message, ())
    assert text.startswith(f"{message}: ")
    assert f"{option} " in text
    assert option in [name for one in deploy.params if isinstance(one, Option) for name in one.opts]


def test_a_name_or_payload_that_is_wrong_names_a_command() -> None:
    """Goal: a typo and the wrong command are soon mended. Method: the texts of a broker and of a model's worker."""
    for kind in ("unknown_agent", "unknown_model"):
        assert "`rota agents --deploys`" in failure_text(kind, "'diner' was not deployed in this lane", ())
    assert "`rota generate`" in failure_text("bad_input", f"model:tiny: {NO_MODEL_PAYLOAD}", ())
    assert failure_text("bad_input", "the payload has two values", ()) == "the payload has two values"


def test_other_failures_say_what_they_are() -> None:
    """Goal: no remedy where none is known. Method: other kinds, and words in brackets that are no bound."""
    assert failure_text("error", "no: more (emits_max)", ()) == "no: more (emits_max)"
    assert failure_text("overflow", "the lane is full", ()) == "the lane is full"
    assert failure_text("overflow", "full (of it)", ()) == "full (of it)"
    assert failure_text("faulted", "no worker could do it", ("first", "last")) == "no worker could do it: last"
