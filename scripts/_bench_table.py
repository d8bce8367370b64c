"""The bench's results: rows of values and the bounds to compare with, as text and as JSON.

A ratio is the share of the bound that was reached: value/bound for rates, bound/value for times, from the medians over
all rounds; 1 is perfect. Standard library only.
"""

from __future__ import annotations

import statistics
from typing import Any

RATES = ("tasks/s", "inferences/s", "records/s", "tokens/s", "sentences/s", "asks/s", "calls/s")


class Row:
    """One line: the values of all rounds, and those of each bound."""

    def __init__(self, case: str, name: str, unit: str) -> None:
        self.case = case
        self.name = name
        self.unit = unit
        self.values: list[float] = []
        self.bounds: dict[str, list[float]] = {}
        self.notes: dict[str, list[float]] = {}

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "name": self.name,
            "unit": self.unit,
            **_spread(self.values),
            "rounds": self.values,
            "bounds": [
                {"name": name, **_spread(values), "ratio": self._ratio(values)} for name, values in self.bounds.items()
            ],
            "notes": {name: statistics.median(values) for name, values in self.notes.items()},
        }

    def lines(self) -> list[str]:
        """Return the row as text: one line, and one more per bound."""
        lines = [f"  {self.name:<58} {_shown(self.values)} {self.unit}"]
        for name, values in self.bounds.items():
            lines.append(f"      {'of ' + name:<54} {_shown(values)}    ratio {self._ratio(values):.3f}")
        if self.notes:
            notes = ", ".join(f"{name} {statistics.median(values):g}" for name, values in self.notes.items())
            lines.append(f"      processor: {notes}")
        return lines

    def _ratio(self, bound: list[float]) -> float:
        value, best = statistics.median(self.values), statistics.median(bound)
        return value / best if self.unit in RATES else best / value


class Table:
    """All rows, in the order in which they were first measured."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def add(
        self,
        case: str,
        name: str,
        unit: str,
        value: float,
        bounds: dict[str, float],
        notes: dict[str, float] | None = None,
    ) -> None:
        """Add the values of one round."""
        row = self._rows.setdefault((case, name), Row(case, name, unit))
        row.values.append(value)
        for label, bound in bounds.items():
            row.bounds.setdefault(label, []).append(bound)
        for label, note in (notes or {}).items():
            row.notes.setdefault(label, []).append(note)

    def as_json(self) -> list[dict[str, Any]]:
        return [row.as_json() for row in self._rows.values()]

    def text(self) -> str:
        lines: list[str] = []
        case = ""
        for row in self._rows.values():
            if row.case != case:
                case = row.case
                lines += ["", f"{case:<60} {'min':>10} {'median':>10} {'max':>10}"]
            lines += row.lines()
        return "\n".join(lines)


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _shown(values: list[float]) -> str:
    return " ".join(f"{value:>10,.{0 if value >= 1000 else 2}f}" for value in _spread(values).values())
