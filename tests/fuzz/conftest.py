"""Puts on the path what the targets are made of: the engine (scripts), the strategies and kits of other tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

for folder in ("scripts", "tests/broker", "tests/common", "tests/fuzz"):
    sys.path.insert(0, str(ROOT / folder))
