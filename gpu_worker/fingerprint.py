"""The fingerprint: everything that could change a bit of a model's result, as a map and as its 32-byte digest.

Metadata is never complete, so the map also has the digest of a probe: the outputs for fixed inputs, from the session
that will do the work. Workers with equal digests are interchangeable. Adding a fact changes every fingerprint, which
breaks nothing, since results name theirs by digest.
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
from rota.gpu_worker.hardware import device_facts, processor_facts
from rota.gpu_worker.providers import OpenSession
from rota.tensors.format import numpy_dtype

# Environment variables that change what the underlying libraries compute.
_ENVIRONMENT_PREFIXES: Final = (
    "ORT_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "NVIDIA_TF32_", "OMP_", "MLAS_", "MIOPEN_", "MIGRAPHX_",
)  # fmt: skip
_PATTERN_CONTEXT: Final = "rota 2026-11 probe input"


def machine_facts(provider: str) -> dict[str, Any]:
    """Return the part of the fingerprint shared by all models of a worker."""
    return {
        "runtime": onnxruntime.__version__,
        "build": onnxruntime.get_build_info(),
        "package": onnxruntime.package_name,
        "provider": provider,
        "processor": processor_facts(),
        "gpu": device_facts(provider),
        "environment": _environment(os.environ),
    }


def session_facts(opened: OpenSession, model_digest: bytes, probe: str) -> dict[str, Any]:
    """Return the whole fingerprint of a model in a session. `probe` is the result of `probe_digest`."""
    return {
        **machine_facts(opened.provider),
        "model": model_digest.hex(),
        "settings": dict(opened.settings),
        "nodes": node_assignment(opened.session),
        "probe": probe,
    }


def digest_of_facts(facts: Mapping[str, Any]) -> bytes:
    """Return the digest of a fingerprint, with its maps as pairs sorted by key."""
    return digest_of(_as_pairs(facts))


def node_assignment(session: Any) -> dict[str, str]:
    """Return how many nodes each provider has, and a digest of the assignment."""
    rows = [
        [node.name, node.op_type, part.ep_name]
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    counts: dict[str, int] = {}
    for _, _, provider in rows:
        counts[provider] = counts.get(provider, 0) + 1
    return {**{name: str(counts[name]) for name in sorted(counts)}, "digest": digest_of(sorted(rows)).hex()}


def probe_input(name: str, dtype: str, shape: Sequence[int], limits: tuple[float, float] | None = None) -> NDArray[Any]:
    """Return the fixed input of the probe: pseudo-random, seeded by the name.

    Within `limits`, if the model says them; else floats in [-1, 1) or integers 0 to 3.
    """
    count = int(np.prod(shape, dtype=np.int64))
    stream = blake3(name.encode(), derive_key_context=_PATTERN_CONTEXT).digest(length=2 * count)
    words = np.frombuffer(stream, "<u2").reshape(tuple(shape))
    target = numpy_dtype(dtype)
    if target.kind == "b":
        return (words & 1).astype(target)
    if limits is not None:
        low, high = limits
        part = words.astype(np.float64) / 65536
        whole = np.minimum(np.floor(low + part * (high - low + 1)), high)
        return (whole if target.kind in "iu" else low + part * (high - low)).astype(target)
    if target.kind in "iu":
        # Small enough for an index into any table, and for a loop that counts to it.
        return (words & 3).astype(target)
    return (words.astype(np.float32) / np.float32(32768) - np.float32(1)).astype(target)


def probe_digest(outputs: Sequence[tuple[str, NDArray[Any]]]) -> str:
    """Return the digest of the bits of the probe's outputs, as text."""
    rows = [[name, array.dtype.name, list(array.shape), blake3(array.tobytes()).digest()] for name, array in outputs]
    return digest_of(rows).hex()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in sorted(variables) if name.startswith(_ENVIRONMENT_PREFIXES)}


def _as_pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _as_pairs(value[key])] for key in sorted(value)]
    return value
