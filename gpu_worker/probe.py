"""The process that probes a model: `python -m rota.gpu_worker.probe MODELS DIGEST THREADS PROVIDER [TRIED]`.

It runs apart from the worker because the probes need much memory for a short time, because a model that crashes must
not take the worker with it, and because a second process is one of the probes: the worker compares its own outputs.
Standard output carries a line of JSON for each report. After the one with the certificate each free extent is set to 0,
with a report before and after; where the process dies, the next one is given all that were TRIED, a JSON list, and goes
on there. The process ends with its parent: standard input stays open as long as somebody waits for the result.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np

from rota.common.errors import CodeError
from rota.common.model_call import DTYPE_BYTES
from rota.gpu_worker.certificate import LADDER, Certificate, Extents, ShapeCertificate, encode, of_shapes, unstable
from rota.gpu_worker.certificate_store import conditions_of
from rota.gpu_worker.empty_extents import emptied, labels_of
from rota.gpu_worker.fingerprint import probe_input
from rota.gpu_worker.generation import load_text_model
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.model_io import BoundCall, Port
from rota.gpu_worker.probe_rows import OUTLIERS, make_rows, takes_wide_integers
from rota.gpu_worker.probes import NoBatch, RowRunner, Say, probe_alone, probe_batches
from rota.gpu_worker.provider_table import Require
from rota.gpu_worker.providers import RUN_ERRORS, OpenSession
from rota.gpu_worker.repository import ModelEntry, Repository
from rota.gpu_worker.sessions import ModelLoader
from rota.gpu_worker.settings import ModelSettings

# A small model is probed with more rows, since a difference may show in few of them.
ROWS_OF_SMALL: Final = 16
ROWS_OF_LARGE: Final = 4
SMALL_WEIGHTS_BYTES: Final = 8 << 20
SMALL_ROW_BYTES: Final = 32 << 10
MEDIUM_WEIGHTS_BYTES: Final = 512 << 20
ROWS_BYTES_MAX: Final = 64 << 20  # of all made-up inputs of a shape set, or else only those of the warm-up


def main(arguments: list[str]) -> None:
    """Probe a model and report."""
    models, digest, threads, provider, *rest = arguments
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(what: str, text: str) -> None:
        print(json.dumps({what: text}), file=report, flush=True)

    code = 1
    try:
        entry = Repository(Path(models)).find(bytes.fromhex(digest))
        model = load_uncertified(entry, threads=int(threads), require=cast(Require, provider))
        if not rest:
            certificate = model.probed(lambda text: tell("say", text))
            tell("certificate", encode(certificate, digest, conditions_of(model.facts)))
        for label in model.empty_extents:
            if label not in json.loads(rest[0] if rest else "[]"):
                tell("trying", label)
                if model.try_empty(label):
                    tell("stood", label)
        code = 0
    except CodeError as error:
        print(error.message, file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)  # nothing is left to do, and a library's clean-up may hang


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


class Uncertified(NamedTuple):
    """A model that was loaded without its certificate. `facts` is its fingerprint; `probed` probes it here; `try_empty`
    runs it with one of its `empty_extents`, the free extents of its inputs, at 0, which may end the process.
    """

    opened: OpenSession
    facts: Mapping[str, Any]
    probed: Callable[[Say], Certificate]
    empty_extents: tuple[str, ...] = ()
    try_empty: Callable[[str], bool] = lambda _: False


def load_uncertified(entry: ModelEntry, *, threads: int, require: Require) -> Uncertified:
    """Load a model for probes. Raises `CodeError` if it is damaged or does not load."""
    settings = entry.settings()
    if settings.task != "generate":
        model = ModelLoader(threads=threads, require=require, tensors=None).session(entry, settings)
        labels = labels_of(model.declared) if settings.task == "tensors" else ()
        return Uncertified(
            model.opened,
            model.facts,
            lambda say: probed(model, say),
            labels,
            lambda label: try_empty(model, label),
        )
    entry.check()
    decoder = load_text_model(entry, settings, threads=threads, require=require)

    def probed_decoder(say: Say) -> Certificate:
        return _drawing(entry, decoder.facts) or decoder.probed(say)

    return Uncertified(decoder.opened, decoder.facts, probed_decoder)


def probed(model: LoadedModel, say: Say) -> Certificate:
    """Return the certificate of a model of rows, from its graph and from probes in this process."""
    if certificate := _drawing(model.entry, model.facts):
        return certificate
    if model.warm_up:
        return unstable(f"it cannot be probed: {model.warm_up}; {_SHAPES_REMEDY}", model.facts["probe"])
    shapes = [_probed_shape(model, model.settings, whole, say) for whole in _shape_sets(model, model.settings)]
    return of_shapes(tuple(shapes), model.facts["probe"])


def try_empty(model: LoadedModel, label: str) -> bool:
    """Run a model once with a free extent set to 0; return whether it ran, if only to an error."""
    shapes = emptied(model.declared, _shape_sets(model, model.settings)[0], label)
    if sum(_size_bytes(port, shapes[name]) for name, port in model.inputs.items()) > ROWS_BYTES_MAX:
        return False
    bound = BoundCall(
        model.opened.session,
        {port: shapes[name] for name, port in model.inputs.items()},
        dict.fromkeys(model.outputs.values()),
        {},
    )
    for name, port in model.inputs.items():
        bound.fill(name, probe_input(name, port.dtype, shapes[name], model.settings.ranges.get(name)).tobytes())
    with contextlib.suppress(*RUN_ERRORS):
        bound.run(None)
    return True


def _drawing(entry: ModelEntry, facts: Mapping[str, Any]) -> Certificate | None:
    drawn = entry.drawing_operator()
    return unstable(f"its graph draws random numbers: {drawn}", facts["probe"]) if drawn else None


_SHAPES_REMEDY: Final = "give shapes that it can run in [[shapes]] of model.toml, and [ranges] of its values"

Whole = dict[str, tuple[int, ...]]
"""The shapes of all inputs, the first extent included."""


def _shape_sets(model: LoadedModel, settings: ModelSettings) -> list[Whole]:
    """Return the shapes to probe: those of model.toml, or else the smallest."""
    given = settings.shape_sets(tuple(model.inputs)) or ({},)
    sets = [{name: shapes.get(name) or _smallest(port) for name, port in model.inputs.items()} for shapes in given]
    seen: dict[Extents, Whole] = {}
    for whole in sets:
        seen.setdefault(_extents(whole), whole)
    return list(seen.values())


def _probed_shape(model: LoadedModel, settings: ModelSettings, whole: Whole, say: Say) -> ShapeCertificate:
    extents = _extents(whole)
    say("shape " + ", ".join(f"{name} {list(shape)}" for name, shape in whole.items()))
    row_bytes = sum(_size_bytes(port, whole[name]) for name, port in model.inputs.items())
    is_small = row_bytes <= SMALL_ROW_BYTES and model.entry.size_bytes <= SMALL_WEIGHTS_BYTES
    count = ROWS_OF_SMALL if is_small else ROWS_OF_LARGE
    is_huge = row_bytes * (count + OUTLIERS) > ROWS_BYTES_MAX
    reason = why_no_batches(model.inputs, model.outputs, settings)
    if is_huge:
        reason = reason or "its rows are too large to probe batches of them"
    rows = {name: shape if reason else shape[1:] for name, shape in whole.items()}
    if is_huge:
        runner = _huge_runner(model, rows)
    else:
        runner = _runner(model, rows, count, settings.ranges, is_batched=not reason)
    if reason:
        return probe_alone(runner, extents, reason)
    rows_max = settings.rows_max or _rows_max_of(model, is_small=is_small)
    ladder = [size for size in LADDER if size <= rows_max]
    if model.opened.provider != "cpu":
        ladder = ladder[-1:]  # there each shape may have kernels of its own
    return probe_batches(runner, extents, ladder, say)


def _rows_max_of(model: LoadedModel, *, is_small: bool) -> int:
    """Return the largest batch where model.toml does not say. On the CPU, large batches of large rows gain nothing, and
    their probes take long.
    """
    if is_small or model.opened.provider != "cpu":
        return LADDER[-1]
    return 16 if model.entry.size_bytes <= MEDIUM_WEIGHTS_BYTES else 8


def why_no_batches(inputs: Mapping[str, Port], outputs: Mapping[str, Port], settings: ModelSettings) -> str:
    """Return why calls of a model can share no batch, or an empty text. It follows from the graph and model.toml."""
    if settings.rows_max == 1:
        return "model.toml says rows_max = 1"
    if not inputs:
        return "it has no inputs"
    names: dict[int | str | None, None] = {}
    for name, port in inputs.items():
        if not port.extents or isinstance(port.extents[0], int):
            return f'input "{name}" {port.shape_text()} has no free first extent'
        names[port.extents[0]] = None
    if len(names) > 1:
        return f"the first extents of its inputs differ: {', '.join(str(name or '?') for name in names)}"
    for name, port in outputs.items():
        if port.extents and isinstance(port.extents[0], int):
            return f'output "{name}" {port.shape_text()} has no free first extent'
    if not settings.shape_sets(tuple(inputs)):
        for name, port in inputs.items():
            if not all(isinstance(extent, int) for extent in port.extents[1:]):
                return f'input "{name}" {port.shape_text()} has free extents and model.toml no [[shapes]]'
    return ""


def _runner(
    model: LoadedModel, rows: Whole, count: int, ranges: Mapping[str, tuple[float, float]], *, is_batched: bool
) -> RowRunner:
    """Return what runs `count` made-up rows of these shapes."""

    def runner_of(*, wide: bool) -> RowRunner:
        made = {
            name: make_rows(name, port.dtype, rows[name], count, ranges.get(name), wide=wide)
            for name, port in model.inputs.items()
        }
        return RowRunner(model.opened.session, model.inputs, model.outputs, made, is_batched=is_batched)

    if takes_wide_integers(model.inputs, ranges):
        runner = runner_of(wide=True)
        try:
            for row in range(count):
                runner.run([row])
        except RUN_ERRORS:
            return runner_of(wide=False)
        except NoBatch:
            pass
        return runner
    return runner_of(wide=False)


def _huge_runner(model: LoadedModel, rows: Whole) -> RowRunner:
    """Return what runs the inputs of the warm-up, where more would take too much memory."""
    made = {}
    for name, port in model.inputs.items():
        array = probe_input(name, port.dtype, rows[name], model.settings.ranges.get(name))
        made[name] = np.broadcast_to(array, (1 + OUTLIERS, *array.shape))
    return RowRunner(model.opened.session, model.inputs, model.outputs, made, is_batched=False)


def _smallest(port: Port) -> tuple[int, ...]:
    return tuple([extent if isinstance(extent, int) else 1 for extent in port.extents])


def _size_bytes(port: Port, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE_BYTES[port.dtype]


def _extents(whole: Whole) -> Extents:
    return tuple(sorted((name, shape[1:]) for name, shape in whole.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
