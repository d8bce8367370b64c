"""Marks on results, shared by simulated workers and the checkers."""

from typing import Final

LIE: Final = b" (a lie)"
DRIFT: Final = b"~"  # at the end of a result of class recorded, some number of times: it differs from run to run
