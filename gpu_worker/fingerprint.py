"""The fingerprint: everything that could change a bit of a model's result, as a map and as its 32-byte digest.

Metadata never tells all, so the map ends with the bits of a probe: fixed inputs through the very session that will do
the work. Two workers with equal digests may stand in for each other; anything else is another fingerprint. Adding a
fact changes every fingerprint; nothing else breaks, since results name theirs by digest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from blake3 import blake3
from numpy.typing import NDArray

from rota.common.digests import digest_of
from rota.gpu_worker.hardware import gpu_facts, processor_facts
from rota.gpu_worker.providers import Opened
from rota.tensors.format import numpy_dtype

# Switches of the libraries below us that are read from the environment.
_ENVIRONMENT_PREFIXES: Final = ("ORT_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_", "OMP_", "MLAS_")
_PATTERN_CONTEXT: Final = "rota 2026-11 probe input"


def machine_facts(provider: str) -> dict[str, Any]:
    """Return the part of the fingerprint that all models of a worker share."""
    return {
        "runtime": onnxruntime.__version__,
        "build": onnxruntime.get_build_info(),
        "package": onnxruntime.package_name,
        "provider": provider,
        "processor": processor_facts(),
        "gpu": gpu_facts() if provider == "cuda" else {},
        "environment": _environment(os.environ),
    }


def session_facts(opened: Opened, model_digest: bytes, probe: str) -> dict[str, Any]:
    """Return the whole fingerprint of one model in one session. `probe` is what `probe_digest` said."""
    return {
        **machine_facts(opened.provider),
        "model": model_digest.hex(),
        "settings": dict(opened.settings),
        "nodes": node_assignment(opened.session),
        "probe": probe,
    }


def digest_of_facts(facts: Mapping[str, Any]) -> bytes:
    """Return the digest of a fingerprint: of its maps as pairs in the order of their keys."""
    return digest_of(_as_pairs(facts))


def node_assignment(session: Any) -> dict[str, str]:
    """Return how many nodes each provider has, and the digest of which node is where."""
    rows = [
        [node.name, node.op_type, part.ep_name]
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    counts: dict[str, int] = {}
    for _, _, provider in rows:
        counts[provider] = counts.get(provider, 0) + 1
    return {**{name: str(counts[name]) for name in sorted(counts)}, "digest": digest_of(sorted(rows)).hex()}


def probe_input(name: str, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Return the fixed input of the probe: floats in [-1, 1), integers 0 to 3, from a stream keyed by the name."""
    count = int(np.prod(shape, dtype=np.int64))
    stream = blake3(name.encode(), derive_key_context=_PATTERN_CONTEXT).digest(length=2 * count)
    words = np.frombuffer(stream, "<u2").reshape(tuple(shape))
    target = numpy_dtype(dtype)
    if target.kind in "iu":
        # Small enough for an index into any table; a loop that counts to an input ends at once.
        return (words & 3).astype(target)
    if target.kind == "b":
        return (words & 1).astype(target)
    return (words.astype(np.float32) / np.float32(32768) - np.float32(1)).astype(target)


def probe_digest(outputs: Sequence[tuple[str, NDArray[Any]]]) -> str:
    """Return the digest of the probe's outputs, bit by bit, as text."""
    rows = [[name, array.dtype.name, list(array.shape), blake3(array.tobytes()).digest()] for name, array in outputs]
    return digest_of(rows).hex()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in sorted(variables) if name.startswith(_ENVIRONMENT_PREFIXES)}


def _as_pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _as_pairs(value[key])] for key in sorted(value)]
    return value
