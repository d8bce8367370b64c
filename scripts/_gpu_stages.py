"""The stages of gpu_check.py: each a process that prints its result as one line of JSON.

    python scripts/_gpu_stages.py STAGE VARIANT [--quick]

A variant changes what decides bits: environment variables before the library is loaded, and options of the CUDA
provider. `ours` is what a GPU worker has. On a host without CUDA everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import rota.gpu_worker  # sets the variables of a GPU worker


class Variant(NamedTuple):
    """Changes against a GPU worker. A variable that is None is unset."""

    environment: Mapping[str, str | None] = {}
    options: Mapping[str, str] = {}


VARIANTS: Final[Mapping[str, Variant]] = {
    "ours": Variant(),
    "split-k": Variant({"CUBLAS_WORKSPACE_CONFIG": None}),
    "large-workspace": Variant({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
    "tf32": Variant({"NVIDIA_TF32_OVERRIDE": None}, {"use_tf32": "1"}),
    "exhaustive": Variant({}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    "no-flash": Variant({"ORT_DISABLE_FLASH_ATTENTION": "1", "ORT_DISABLE_FLASH_DECODE": "1"}),
    "math": Variant({}, {"sdpa_kernel": "16"}),
    "graphs": Variant({}, {"enable_cuda_graph": "1"}),
}

_QUICK_FAMILIES: Final = ("matmul-constant", "softmax", "log", "conv-2d")
_CONVOLUTIONS: Final = ("conv-1d", "conv-2d", "conv-transpose", "conv-net")
_SIZES: Final = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stage", choices=list(_STAGES))
    parser.add_argument("variant", choices=list(VARIANTS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    assert rota.gpu_worker.__doc__
    apply(VARIANTS[options.variant])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        result = _STAGES[options.stage](Path(scratch), options.quick)
    print(json.dumps(result), flush=True)


def apply(variant: Variant) -> None:
    """Put a variant into effect, before the library is loaded."""
    from rota.gpu_worker.provider_table import PROVIDERS

    for name, value in variant.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    cast(dict[str, str], PROVIDERS["cuda"].options).update(variant.options)


# --- stages -----------------------------------------------------------------------------------------------------------


def providers(scratch: Path, quick: bool) -> dict[str, Any]:
    """Where models run, which of the generated graphs CUDA takes wholly, and what it says of the others."""
    from rota.gpu_worker.fingerprint import machine_facts
    from rota.gpu_worker.providers import choose, why_not

    choice = choose("auto", require=False)
    fallbacks = {}
    for name, path in _family_files(scratch, quick):
        opened = _open(path)
        if opened.provider != "cuda":
            fallbacks[name] = opened.reason
    facts = machine_facts(choice.provider)
    return {
        "provider": choice.provider,
        "reason": choice.reason,
        "tensorrt": why_not("tensorrt") or "works",
        "fallbacks": fallbacks if choice.provider == "cuda" else {},
        "facts": {key: facts[key] for key in ("runtime", "package", "processor", "gpu", "environment")},
    }


def operators(scratch: Path, quick: bool) -> dict[str, Any]:
    """For each family of operators: what its bits depend on, and the digest of them."""
    return {name: _row_facts(name, path, quick) for name, path in _family_files(scratch, quick)}


def convolutions(scratch: Path, quick: bool) -> dict[str, Any]:
    """The digests of convolutions in three fresh processes: a choice by timing shows as different ones."""
    del scratch
    return {"digests": _digests_of_processes(3, quick, together=False), "seconds_per_run": _convolution_seconds(quick)}


def pair(scratch: Path, quick: bool) -> dict[str, Any]:
    """The digests of two processes that use the device at the same time, and of one alone."""
    del scratch
    alone = _digests_of_processes(1, quick, together=False)
    return {"alone": alone, "together": _digests_of_processes(2, quick, together=True)}


def digests(scratch: Path, quick: bool) -> dict[str, Any]:
    """The digest of one batch of 8 rows for each of some families: what `pair` and `convolutions` compare."""
    import numpy as np
    from blake3 import blake3

    found = {}
    for name, path in _family_files(scratch, quick, (*_CONVOLUTIONS, "matmul-constant", "attention", "lstm")):
        session, inputs = _open(path).session, _inputs(name, 8, np.random.default_rng(7))
        outputs = [session.run(None, inputs) for _ in range(3)]
        bits = [b"".join(array.tobytes() for array in one) for one in outputs]
        found[name] = blake3(bits[0]).hexdigest()[:16] if len(set(bits)) == 1 else "differs from run to run"
    return found


def decoder(scratch: Path, quick: bool) -> dict[str, Any]:
    """Whether decoders give a request the same bits in every slot, beside any neighbour: the probes of generation."""
    found: dict[str, Any] = {}
    for name, element in (("tiny float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        if _require() == "cpu" and element != "float32":
            found[name] = {"missing": "only for a GPU"}
            continue
        try:
            certificate = _text_model(scratch / element, element, quick).probed(lambda _: None)
        except Exception as error:  # a variant may be refused by the library; the report says so
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        counts = certificate.decoder.evidence if certificate.decoder else ()
        found[name] = {
            "class": certificate.model_class,
            "reason": certificate.reason,
            "slots": certificate.decoder.sizes[-1] if certificate.decoder else 0,
            "evidence": [one._asdict() for one in counts],
        }
    return found


def tokens(scratch: Path, quick: bool) -> dict[str, Any]:
    """Greedy tokens on the CPU and on CUDA, for the same weights: at which token they part, if at all."""
    found = {}
    for element in ("float32",):
        folder = _decoder_folder(scratch / element, element, quick)
        lists = {require: _greedy(folder, require, 24 if quick else 64) for require in ("cpu", _require())}
        cpu, other = lists["cpu"], lists[_require()]
        parts = next((at for at, (a, b) in enumerate(zip(cpu, other, strict=True)) if a != b), None)
        found[element] = {"compared": len(cpu), "providers": list(lists), "parts_at": parts}
    return found


def graphs(scratch: Path, quick: bool) -> dict[str, Any]:
    """A captured CUDA graph against plain runs of the same session settings: bits and time per run."""
    found: dict[str, Any] = {}
    for variant in ("ours", "graphs"):
        command = [sys.executable, __file__, "graph_run", variant, *(["--quick"] if quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        found[variant] = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else done.stderr[-300:]
    del scratch
    return found


def graph_run(scratch: Path, quick: bool) -> dict[str, Any]:
    """Run the MLP at 64 rows with inputs and outputs at fixed addresses of the device; for `graphs`."""
    import numpy as np
    import onnxruntime
    from blake3 import blake3

    (_, path), *_ = _family_files(scratch, False, ("mlp-256-256-10",))
    session = _open(path).session
    x = _inputs("mlp-256-256-10", 64, np.random.default_rng(7))["x"]
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type([64, 10], np.float32, "cuda", 0)
    binding.bind_ortvalue_output("y", y)
    for _ in range(3):  # the first runs capture the graph
        session.run_with_iobinding(binding)
    runs = 50 if quick else 2_000
    started = time.perf_counter()
    for _ in range(runs):
        session.run_with_iobinding(binding)
    took = time.perf_counter() - started
    return {"digest": blake3(y.numpy().tobytes()).hexdigest()[:16], "microseconds": round(took / runs * 1e6, 1)}


def throughput(scratch: Path, quick: bool) -> dict[str, Any]:
    """Rows per second of an MLP by batch size, and tokens per second of a decoder by requests: both beside a plain loop
    of the same session.
    """
    import numpy as np

    (_, path), *_ = _family_files(scratch, False, ("mlp-256-256-10",))
    session = _open(path).session
    rows = {}
    for size in (1, 8, 64):
        inputs = _inputs("mlp-256-256-10", size, np.random.default_rng(7))
        rows[str(size)] = round(size * _per_second(partial(session.run, None, inputs), quick))
    element = "float32" if _require() == "cpu" else "float16"
    return {"mlp rows/s": rows, "decoder": _token_rates(scratch, element, quick), "element": element}


# --- parts ------------------------------------------------------------------------------------------------------------


def _require() -> str:
    from rota.gpu_worker.providers import why_not

    return "cpu" if why_not("cuda") else "cuda"


def _open(path: Path) -> Any:
    from rota.gpu_worker.providers import open_session
    from rota.gpu_worker.settings import ModelSettings

    return open_session(path, ModelSettings(), threads=1, require="auto")


def _family_files(scratch: Path, quick: bool, names: tuple[str, ...] = ()) -> list[tuple[str, Path]]:
    from _operator_graphs import FAMILIES

    chosen = [name for name in names or FAMILIES if not quick or name in _QUICK_FAMILIES or len(names) == 1]
    return [(name, FAMILIES[name]().save(scratch / f"{name}.onnx")) for name in chosen]


def _inputs(name: str, rows: int, random: Any) -> dict[str, Any]:
    import numpy as np
    from _operator_graphs import FAMILIES, HALF

    graph = FAMILIES[name]()
    dtype = np.float16 if graph.kind == HALF else np.float32
    return {one: random.standard_normal((rows, *extents)).astype(dtype) for one, extents in graph.inputs.items()}


def _row_facts(name: str, path: Path, quick: bool) -> dict[str, Any]:
    """What the bits of a row depend on: brute force over sizes, positions and neighbours."""
    import numpy as np
    from _brute_force import brute_force, normal_rows
    from _operator_graphs import FAMILIES, HALF

    graph = FAMILIES[name]()
    opened = _open(path)
    dtypes = dict.fromkeys(graph.inputs, np.float16 if graph.kind == HALF else np.float32)
    sizes = _SIZES[:4] if quick else _SIZES
    truth = brute_force(
        opened.session, normal_rows(graph.inputs, dtypes), sizes, rows=2 if quick else 6, positions_max=9
    )
    groups: dict[Any, list[int]] = {}
    for size in sizes:
        bits = tuple(frozenset(seen) for seen in truth.bits[size].values())
        groups.setdefault(bits, []).append(size)
    return {
        "provider": opened.provider,
        "stable": truth.stable,
        "neighbours": truth.coupled,
        "positions": [size for size in sizes if truth.moves(size)],
        "equal_sizes": list(groups.values()),
    }


def _digests_of_processes(count: int, quick: bool, *, together: bool) -> list[Any]:
    variant = sys.argv[2]
    command = [sys.executable, __file__, "digests", variant, *(["--quick"] if quick else [])]
    started = []
    found = []
    for _ in range(count):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        started.append(process)
        if not together:
            process.wait()
    for process in started:
        out, _ = process.communicate()
        found.append(json.loads(out.splitlines()[-1]) if not process.returncode else f"exit code {process.returncode}")
    return found


def _convolution_seconds(quick: bool) -> dict[str, float]:
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        (_, path), *_ = _family_files(Path(scratch), False, ("conv-net",))
        session, inputs = _open(path).session, _inputs("conv-net", 32, np.random.default_rng(7))
        return {"conv-net, 32 rows": round(1 / _per_second(partial(session.run, None, inputs), quick), 6)}


def _per_second(call: Callable[[], object], quick: bool) -> float:
    for _ in range(3):
        call()
    end, count, started = time.perf_counter() + (0.05 if quick else 1.0), 0, time.perf_counter()
    while time.perf_counter() < end:
        call()
        count += 1
    return count / (time.perf_counter() - started)


def _decoder_folder(folder: Path, element: str, quick: bool) -> Path:
    from rota.model_builds.decoder import DecoderShape
    from rota.model_builds.random_decoder import TINY, build_random_decoder

    if element == "float32" or quick:
        return build_random_decoder(folder, TINY)
    shape = DecoderShape(
        vocabulary=TINY.vocabulary, hidden=1024, layers=8, heads=16, kv_heads=8, head_size=64, inner=2816, context=512,
        element=element,
    )  # fmt: skip
    return build_random_decoder(folder, shape, slots=8)


def _text_model(folder: Path, element: str, quick: bool, require: str = "") -> Any:
    from rota.gpu_worker.generation import load_text_model
    from rota.gpu_worker.repository import Repository

    source = (
        _decoder_folder(folder / "source", element, quick) if not (folder / "source").exists() else folder / "source"
    )
    entry = Repository(folder / "models").add(source, "decoder")
    return load_text_model(entry, entry.settings(), threads=1, require=cast(Any, require or _require()))


def _greedy(folder: Path, require: str, count: int) -> list[int]:
    """Return the most likely tokens behind a fixed prompt."""
    decoder = _decoder(folder, require, 1)
    logits = decoder.prefill(0, 0, _PROMPT)
    chosen = []
    for at in range(count):
        chosen.append(int(logits.argmax()))
        logits = decoder.decode({0: (chosen[-1], len(_PROMPT) + at)}, {})[0]
    return chosen


_PROMPT: Final = (65, 66, 67, 68, 69, 70, 71, 72)


def _decoder(folder: Path, require: str, slots: int) -> Any:
    from rota.gpu_worker.generation import load_text_model
    from rota.gpu_worker.repository import Repository

    entry = Repository(folder.parent / "models").add(folder, "decoder")
    model = load_text_model(entry, entry.settings(), threads=1, require=cast(Any, require))
    return model._graph.decoder((slots,))


def _token_rates(scratch: Path, element: str, quick: bool) -> dict[str, Any]:
    """Tokens per second of decodes of 1, 4 and 8 rows, and of a plain loop over the same binding."""
    folder = _decoder_folder(scratch / "rates", element, quick)
    found = {}
    for slots in (1, 4, 8):
        decoder = _decoder(folder, _require(), slots)
        for slot in range(slots):
            decoder.prefill(slot, 0, _PROMPT)
        inputs = dict.fromkeys(range(slots), (65, len(_PROMPT)))
        binding, session = decoder._decode_binding(slots), decoder._session
        rate = _per_second(partial(decoder.decode, inputs, {}), quick)
        bound = _per_second(partial(session.run_with_iobinding, binding), quick)
        found[str(slots)] = {"tokens/s": round(slots * rate), "plain loop": round(slots * bound)}
    return found


_STAGES: Final[Mapping[str, Callable[[Path, bool], dict[str, Any]]]] = {
    "providers": providers, "operators": operators, "convolutions": convolutions, "pair": pair, "digests": digests,
    "decoder": decoder, "tokens": tokens, "graphs": graphs, "graph_run": graph_run, "throughput": throughput,
}  # fmt: skip

if __name__ == "__main__":
    main()
