"""Puts this folder on the path: pytest's importlib mode does not, and `wire_strategies.py` is a plain module here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
