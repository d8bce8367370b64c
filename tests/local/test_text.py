"""Text calls of a local lane: what is wrong is refused before anything is submitted, as by a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rota import local
from rota.common.errors import BadPayload, BadTarget, ConfigError, LocalError

Factory = Callable[..., local.LocalLane]
SAID = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("method", "arguments", "named", "error"),
    [
        ("generate", ("m",), {}, BadPayload),
        ("generate", ("m", "a"), {"messages": SAID}, BadPayload),
        ("generate", ("m", "a"), {"temprature": 1}, ConfigError),
        ("generate", ("m", "a"), {"temperature": -1}, BadPayload),
        ("generate", ("a b", "a"), {}, BadTarget),
        ("chat", ("m",), {"temperature": -1}, BadPayload),
        ("chat", ("m",), {"lane": "main"}, ConfigError),
        ("chat", ("m",), {"conversation": b"short"}, BadPayload),
        ("embed", ("m", "text"), {}, BadPayload),
        ("embed", ("m", []), {}, BadPayload),
        ("classify", ("m", ["a"]), {"top": 0}, BadPayload),
    ],
)
def test_what_is_wrong_is_refused(
    rota_lane_factory: Factory, method: str, arguments: tuple[Any, ...], named: dict[str, Any], error: type[LocalError]
) -> None:
    """Goal: a typed error and an untouched lane. Method: one wrong argument at a time."""
    lane = rota_lane_factory()
    with pytest.raises(error):
        getattr(lane, method)(*arguments, **named)
    assert not lane.waiting
