"""What a text model reports of its requests. PURE."""

from __future__ import annotations

from typing import NamedTuple

from rota.common.text_results import GenerateResult
from rota.common.work import Failed


class Piece(NamedTuple):
    """Text that a request has generated, behind `offset` characters that came before it."""

    request: int
    offset: int
    text: str


class Generated(NamedTuple):
    """A request has ended, with its result, which has no conversation yet, or with a failure."""

    request: int
    result: GenerateResult | Failed
