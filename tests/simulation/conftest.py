"""Puts the simulation and the kit of the core on the path: `simulation.x` from here, `scripted` from broker/."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS / "broker"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
