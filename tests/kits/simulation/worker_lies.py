"""The mark of a lie, known to the worker that tells it and to those who check."""

from typing import Final

LIE: Final = b" (a lie)"
