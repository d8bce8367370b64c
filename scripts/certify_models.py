"""Find the classes of real models and of a graph for each operator family, and check them by brute force.

    python3 scripts/certify_models.py                        # the generated graphs, with 1, 2 and 4 threads
    python3 scripts/certify_models.py --real --brute-force   # the real models too, each compared with brute force
    python3 scripts/certify_models.py --only magika log --threads 1

Prints a table in Markdown, as in docs/INFERENCE.md. Exit code 1: brute force contradicts a certificate. Real models are
downloaded into `.cache` the first time. `--real --brute-force` takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _environment import ensure_environment

if TYPE_CHECKING:
    from rota.gpu_worker.certificate import Certificate

_SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 32)
_REAL_SIZES = (1, 2, 3, 4, 8)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", action="store_true", help="the real models too")
    parser.add_argument("--brute-force", action="store_true", help="compare each class with brute force")
    parser.add_argument("--threads", default="1,2,4", help="threads of a session, with commas")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these")
    options = parser.parse_args()
    ensure_environment(["dev"])
    from _operator_graphs import FAMILIES
    from _real_models import REAL

    every = [*FAMILIES, *REAL]
    names = options.only or (every if options.real else list(FAMILIES))
    if unknown := [name for name in names if name not in every]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(every)}")
    threads = [int(number) for number in options.threads.split(",")]
    wrong: list[str] = []
    print("| model | " + " | ".join(f"{count} thread{'s'[: count > 1]}" for count in threads) + " | why not A |")
    print("|" + "---|" * (len(threads) + 2))
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            wrong += _row(name, Path(scratch), threads, check=options.brute_force)
    for text in wrong:
        print(f"contradicted: {text}", file=sys.stderr)
    return 1 if wrong else 0


def _row(name: str, scratch: Path, threads: Sequence[int], *, check: bool) -> list[str]:
    """Print the row of one model; return what brute force contradicts."""
    from rota.gpu_worker.certification import certificate_of
    from rota.gpu_worker.repository import Repository
    from rota.gpu_worker.sessions import ModelLoader

    repository = Repository(scratch / "models")
    entry = repository.add(_source(name, scratch), name)
    cells: list[str] = []
    reasons: dict[str, None] = {}
    wrong: list[str] = []
    for count in threads:
        _say(f"{name}, {count} threads")
        model = ModelLoader(threads=count, require="cpu", tensors=None).session(entry, entry.settings())
        started = time.monotonic()
        found = certificate_of(
            entry, model.opened, model.facts, threads=count, is_stopping=lambda: False, say=lambda _: None
        )
        cells.append(_cell(found, time.monotonic() - started))
        reasons |= dict.fromkeys([found.reason] if found.reason else [])
        if check:
            _say(f"{name}, {count} threads, brute force")
            wrong += [f"{name}, {count} threads: {text}" for text in _disagreements(name, model, found)]
    _say("")
    print(f"| {name} | {' | '.join(cells)} | {'; '.join(reasons)} |", flush=True)
    return wrong


def _source(name: str, scratch: Path) -> Path:
    from _operator_graphs import FAMILIES
    from _real_models import REAL, model_folder

    if name in REAL:
        return model_folder(name, scratch / "sources", _say)
    return FAMILIES[name]().save(scratch / "sources" / f"{name}.onnx")


def _cell(found: Certificate, seconds: float) -> str:
    sizes = found.shapes[0].sizes if found.shapes else ()
    text = f" {sizes[0]}-{sizes[-1]}" if sizes else ""
    return f"{found.model_class}{text} ({seconds:.1f} s)"


def _disagreements(name: str, model: Any, found: Certificate) -> list[str]:
    import numpy as np
    from _brute_force import brute_force, disagreements, normal_rows
    from _operator_graphs import FAMILIES, HALF
    from _real_models import REAL

    if not found.shapes:
        return []  # the graph draws numbers
    session = model.opened.session
    if name in REAL:
        make_row = REAL[name].make_row
        if make_row is None:
            return []  # it has no rows that could share a batch
        truth = brute_force(session, make_row, _REAL_SIZES, rows=4, positions_max=3)
    else:
        graph = FAMILIES[name]()
        dtype = np.float16 if graph.kind == HALF else np.float32
        make_row = normal_rows(graph.inputs, dict.fromkeys(graph.inputs, dtype))
        truth = brute_force(session, make_row, _SIZES, rows=6, positions_max=9)
    return disagreements(found.shapes[0], truth)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
