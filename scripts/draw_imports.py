"""Draw who imports whom: docs/imports.svg, made from the imports of all packages. Standard library only.

    python3 scripts/draw_imports.py            write it
    python3 scripts/draw_imports.py --check    say whether it is up to date; the exit code is 1 if it is not

A package is one row above the highest one that it imports, so all arrows point down. An arrow is left out if a path of
others implies it. The same imports give the same bytes; tests/test_docs.py compares.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

import _sources

TARGET = _sources.REPOSITORY / "docs" / "imports.svg"
MORE = ("examples",)  # a folder of programs, not a package

BOX_WIDTH, BOX_HEIGHT = 112, 34
ROW_HEIGHT, GAP, MARGIN = 82, 28, 16
BEND_WIDTH = 12  # of an arrow that passes a row
SWEEPS = 40

Edge = tuple[str, str]


class Place(NamedTuple):
    """An element of a row: a package, or a passing arrow (`name` is then `from>to`)."""

    row: int
    name: str

    @property
    def width(self) -> int:
        return BEND_WIDTH if ">" in self.name else BOX_WIDTH


def packages() -> list[str]:
    """Return the folders to draw."""
    return sorted([*_sources.package_folders(), *MORE])


def edges(names: Iterable[str]) -> list[Edge]:
    """Return the pairs of packages of which the first imports the second."""
    known = list(names)
    found: dict[Edge, None] = {}
    for path in _sources.python_files():
        folder = path.relative_to(_sources.REPOSITORY).parts[0]
        if folder not in known:
            continue
        for _, module in _sources.imports(ast.parse(path.read_text(encoding="utf-8"))):
            parts = module.split(".")
            if parts[0] == "rota" and len(parts) > 1 and parts[1] in known and parts[1] != folder:
                found[(folder, parts[1])] = None
    return sorted(found)


def rows_of(names: Iterable[str], found: list[Edge]) -> dict[str, int]:
    """Return the row of each package: 0 for those that import none, else one above the highest that it imports."""
    rows = dict.fromkeys(names, 0)
    for _ in rows:
        for above, below in found:
            rows[above] = max(rows[above], rows[below] + 1)
    assert all(rows[above] > rows[below] for above, below in found), "packages import each other"
    return rows


def needed(found: list[Edge]) -> list[Edge]:
    """Return the edges that are not implied by a path of others."""
    below: dict[str, list[str]] = {}
    for one, other in found:
        below.setdefault(one, []).append(other)

    def leads(one: str, other: str) -> bool:
        return one == other or any(leads(step, other) for step in below.get(one, ()))

    return [(one, other) for one, other in found if not any(leads(step, other) for step in below[one] if step != other)]


# --- layout ---------------------------------------------------------------------------------------


def ways_of(rows: dict[str, int], found: list[Edge]) -> list[list[Place]]:
    """Return each arrow as the places that it goes through, top down."""
    return [
        [
            Place(rows[above], above),
            *[Place(row, f"{above}>{below}") for row in range(rows[above] - 1, rows[below], -1)],
            Place(rows[below], below),
        ]
        for above, below in found
    ]


def placed(names: Iterable[str], rows: dict[str, int], ways: list[list[Place]]) -> dict[Place, float]:
    """Return the centre of each place. Places move to the mean of their neighbours, row by row."""
    boxes = [Place(rows[name], name) for name in names]
    everything = dict.fromkeys([*boxes, *[place for way in ways for place in way]])
    by_row: dict[int, list[Place]] = {}
    for place in sorted(everything):
        by_row.setdefault(place.row, []).append(place)
    joined: dict[Place, list[Place]] = {place: [] for place in everything}
    for way in ways:
        for one, other in pairwise(way):
            joined[one].append(other)
            joined[other].append(one)
    middles: dict[Place, float] = {}
    for row in by_row.values():
        middles |= spread(row, [float(number) for number in range(len(row))])
    for sweep in range(SWEEPS):
        for number in sorted(by_row, reverse=sweep % 2 == 0):
            row, step = by_row[number], 1 if sweep % 2 == 0 else -1
            last = sweep >= SWEEPS - 2  # at last, to the mean of those above and below
            near = [[other for other in joined[one] if last or other.row == one.row + step] or [one] for one in row]
            wanted = [fmean([middles[other] for other in others]) for others in near]
            order = sorted(range(len(row)), key=lambda place: (wanted[place], row[place]))
            by_row[number] = [row[place] for place in order]
            middles |= spread(by_row[number], [wanted[place] for place in order])
    return middles


def spread(row: list[Place], wanted: list[float]) -> dict[Place, float]:
    """Return centres near the wanted ones, in this order and without overlap."""
    apart = [0.0]
    for one, other in pairwise(row):
        apart.append(apart[-1] + (one.width + other.width) / 2 + GAP)
    shifted = [want - away for want, away in zip(wanted, apart, strict=True)]
    groups: list[list[float]] = []  # neighbours that would overlap move together
    for shift in shifted:
        groups.append([shift])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    settled = [fmean(group) for group in groups for _ in group]
    return {one: shift + away for one, shift, away in zip(row, settled, apart, strict=True)}


# --- the picture ----------------------------------------------------------------------------------


def draw() -> str:
    """Return the picture."""
    names = packages()
    found = edges(names)
    rows = rows_of(names, found)
    ways = ways_of(rows, needed(found))
    middles = placed(names, rows, ways)
    left = min(middle - place.width / 2 for place, middle in middles.items()) - MARGIN
    width = round(max(middle + place.width / 2 for place, middle in middles.items()) - left) + MARGIN
    top = max(rows.values())
    height = top * ROW_HEIGHT + BOX_HEIGHT + 2 * MARGIN

    def at(place: Place) -> tuple[int, int]:
        return round(middles[place] - left), MARGIN + BOX_HEIGHT // 2 + (top - place.row) * ROW_HEIGHT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>Who imports whom</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#456"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<g fill="none" stroke="#456" stroke-width="1.3">',
        *[_arrow([at(place) for place in way]) for way in ways],
        "</g>",
        '<g font-family="monospace" font-size="15" text-anchor="middle" fill="#123">',
        *[_box(name, *at(Place(rows[name], name))) for name in names],
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _arrow(points: list[tuple[int, int]]) -> str:
    """Return an arrow from the bottom of a box to the top of another, vertical where it passes a row."""
    half = BOX_HEIGHT // 2
    x, y = points[0][0], points[0][1] + half
    path = f"M{x} {y}"
    for place, (to_x, middle_y) in enumerate(points[1:], start=2):
        to_y, bend = middle_y - half, (middle_y - half - y) // 2
        path += f"C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"
        x, y = to_x, to_y
        if place < len(points):
            y = middle_y + half
            path += f"V{y}"
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def _box(name: str, x: int, y: int) -> str:
    left, top = x - BOX_WIDTH // 2, y - BOX_HEIGHT // 2
    box = f'<rect x="{left}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="#eef3f8" stroke="#456"/>'
    return f'{box}<text x="{x}" y="{y + 5}">{name}</text>'


def main() -> int:
    """Write the picture, or compare it."""
    parser = argparse.ArgumentParser(description="Draw who imports whom: docs/imports.svg.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date; exit code 1 if not")
    only_check = parser.parse_args().check
    picture = draw()
    if not only_check:
        TARGET.write_text(picture, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == picture:
        return 0
    print(f"{TARGET.name} is not what the imports are: run `python3 scripts/draw_imports.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
