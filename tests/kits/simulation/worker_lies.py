"""The mark of a lie, shared by the lying worker and the checkers."""

from typing import Final

LIE: Final = b" (a lie)"
