"""Faults in what guests write during a call, and in the fence. For _mutations.py: the fields of its `Mutation`."""

from __future__ import annotations

from typing import Final

_CALLS: Final = ("tests/cpu_worker/test_rota_calls.py",)

FENCE_FAULTS: Final = (
    (
        "log-lost-at-a-trap",
        "what a guest logged before it failed is kept",
        "cpu_worker/executor.py",
        "outcome, changed = Failed(fault.kind, fault.message, log.lines(), sandbox.fuel_used), None",
        "outcome, changed = Failed(fault.kind, fault.message, (), sandbox.fuel_used), None",
        _CALLS,
    ),
    (
        "unnamed-tensor-written",
        "only tensors that an outcome names are written",
        "cpu_worker/outcome_tensors.py",
        "        named = dict.fromkeys(done.named_tensors)\n",
        "        named = dict.fromkeys([*done.named_tensors, *[ref for ref, _ in made]])\n",
        _CALLS,
    ),
    (
        "tensor-for-nothing",
        "fuel bounds the bytes that host functions copy",
        "cpu_worker/rota_calls.py",
        "        guest.charge(size)\n        data = guest.read(data_at, size)\n",
        "        data = guest.read(data_at, size)\n",
        _CALLS,
    ),
    (
        "new-tensors-unbounded",
        "the tensors that a task makes are bounded in bytes",
        "cpu_worker/tensor_access.py",
        "is_full or self._bytes_made + size > self.bytes_max else 0",
        "is_full else 0",
        _CALLS,
    ),
    (
        "large-result-inline",
        "a result that no message could carry is a tensor",
        "cpu_worker/outcome_tensors.py",
        "    if result is not None and len(result) > PAYLOAD_BYTES_MAX:\n",
        "    if result is not None and len(result) > PAYLOAD_BYTES_MAX + 1:\n",
        _CALLS,
    ),
    (
        "long-names-deployed",
        "no name of a function makes traps costly",
        "common/wasm_names.py",
        "        if size > WASM_NAME_BYTES_MAX:\n",
        "        if size > WASM_NAME_BYTES_MAX + 1:\n",
        ("tests/common/test_wasm_module.py",),
    ),
)
