"""One call of one model: binds it to the session, runs it under the watchdog, packs the outputs.

Small inline calls use a cached binding for their signature. A call with tensors of the store or a large output gets its
own binding over the mapped files. Both give the same bits, since every buffer is 64-byte aligned. Calls do not affect
each other.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from rota.common.errors import BadPayload, DeviceLost
from rota.common.model_call import DTYPE_BYTES, Call, Tensor, encode_result
from rota.common.work import TensorRef
from rota.gpu_worker.model_io import BoundCall, OutputShapes, Port
from rota.gpu_worker.providers import RUN_ERRORS, error_text
from rota.gpu_worker.run_errors import meaning_of
from rota.gpu_worker.sessions import LoadedModel
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.arrays import Array, array_of
from rota.tensors.format import inline_bytes_max
from rota.tensors.store import TensorDraft, TensorStore

Packed = tuple[bytes, tuple[TensorRef, ...]]
"""The payload of a result, and the tensor references that it indexes."""


class RunEnded(Exception):
    """This worker has no outcome for a task: it was stopped, or cannot be done here."""

    def __init__(self, stopped: Literal["timeout", "interrupted", "faulted"], reason: str) -> None:
        super().__init__(reason)
        self.stopped = stopped
        self.reason = reason


class Inference:
    """Runs calls. Use it in the executor's thread only."""

    def __init__(self, tensors: TensorStore | None, watchdog: RunWatchdog) -> None:
        self._tensors = tensors
        self._watchdog = watchdog

    def run(self, model: LoadedModel, call: Call, references: tuple[TensorRef, ...], timeout_ms: int) -> Packed:
        """Run a call and return the payload of its result.

        Raises `BadPayload` if the call does not fit the model, `TensorError` if the store has no such tensor or no
        room, `RunEnded` if the run was stopped or failed for a reason other than its input, `DeviceLost` if no call can
        succeed any more.
        """
        kept = model.kept_call(call)
        if kept is None:
            if misfit := model.misfit(call):
                raise BadPayload(misfit)
            outputs = model.output_shapes(call)
            if self._is_small(call, outputs):
                kept = model.keep_call(call, outputs)
        try:
            if kept is not None:
                return self._run_bound(model, kept, call, {}, timeout_ms)
            return self._run_in_place(model, call, references, outputs, timeout_ms)
        except BadPayload:
            if not model.declared_outputs_hold:
                raise
        # Either the input is bad, or the graph's outputs differ from their declared shapes: retry without those.
        result = self._run_in_place(model, call, references, dict.fromkeys(model.output_shapes(call)), timeout_ms)
        model.distrust_declared_outputs()
        return result

    def _is_small(self, call: Call, outputs: OutputShapes) -> bool:
        if self._tensors is not None and _large(outputs):
            return False
        return all(isinstance(tensor.data, bytes) for tensor in call.inputs.values())

    def _run_in_place(
        self,
        model: LoadedModel,
        call: Call,
        references: tuple[TensorRef, ...],
        outputs: OutputShapes,
        timeout_ms: int,
    ) -> Packed:
        """Run a call without copies: inputs are mapped from the store, large outputs written into drafts of it."""
        places = self._mapped_inputs(call, references)
        with contextlib.ExitStack() as stack:  # drops the drafts if the run fails
            drafts = self._drafts(outputs, stack)
            places.update((name, draft.array) for name, draft in drafts.items())
            return self._run_bound(model, model.bind(call, outputs, places), call, drafts, timeout_ms)

    def _mapped_inputs(self, call: Call, references: tuple[TensorRef, ...]) -> dict[str, Array]:
        arrays = {}
        for name, tensor in call.inputs.items():
            if not isinstance(tensor.data, bytes):
                array = array_of(tensor, references, self._tensors)
                if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
                    raise BadPayload(f'input "{name}" is bool and holds bytes other than 0 and 1')
                arrays[name] = array
        return arrays

    def _drafts(self, outputs: OutputShapes, stack: contextlib.ExitStack) -> dict[str, TensorDraft]:
        """Return a draft in the store for each output known to be large."""
        if self._tensors is None:
            return {}
        return {
            port.name: stack.enter_context(self._tensors.create(port.dtype, shape))
            for port, shape in _large(outputs).items()
        }

    def _run_bound(
        self,
        model: LoadedModel,
        bound: BoundCall,
        call: Call,
        drafts: Mapping[str, TensorDraft],
        timeout_ms: int,
    ) -> Packed:
        for name, tensor in call.inputs.items():
            if isinstance(tensor.data, bytes):
                bound.fill(name, tensor.data)
        options = self._watchdog.arm(timeout_ms)
        try:
            arrays = bound.run(options)
        except RUN_ERRORS as error:
            raise _what_came_of(error, self._watchdog.disarm(), timeout_ms, model.opened.provider) from error
        self._watchdog.disarm()
        return self._packed(bound, arrays, drafts)

    def _packed(self, bound: BoundCall, arrays: Mapping[str, Array], drafts: Mapping[str, TensorDraft]) -> Packed:
        """Return the payload. Which outputs are inline depends on the sizes of all, not on how they were bound."""
        references: list[TensorRef] = []
        tensors = {}
        inline_max = inline_bytes_max([array.nbytes for array in arrays.values()])
        for name, array in arrays.items():
            data: bytes | int = len(references)
            if name in drafts:  # outputs known to be large before the run are so after it
                references.append(drafts[name].seal())
            elif self._tensors is not None and array.nbytes > inline_max:
                references.append(self._tensors.put(array))
            else:
                data = array.tobytes()
            tensors[name] = Tensor(bound.dtypes[name], array.shape, data)
        return encode_result(tensors), tuple(references)


def _large(outputs: OutputShapes) -> dict[Port, tuple[int, ...]]:
    """Return the outputs known before the run to be too large to be inline."""
    known = {port: shape for port, shape in outputs.items() if shape is not None}
    sizes = {port: math.prod(shape) * DTYPE_BYTES[port.dtype] for port, shape in known.items()}
    inline_max = inline_bytes_max(sizes.values())
    return {port: shape for port, shape in known.items() if sizes[port] > inline_max}


def _what_came_of(error: Exception, stopped: Any, timeout_ms: int, provider: str) -> Exception:
    """Return what a failed run means: a requested stop, a bad input, a lost device, or a fault of this worker."""
    if stopped is not None:
        return RunEnded(stopped, f"ran longer than {timeout_ms} ms" if stopped == "timeout" else "")
    text = error_text(error)
    match meaning_of(text, provider):
        case "input":
            return BadPayload(text)
        case "device":
            return DeviceLost(text)
        case "memory" | "fault":
            return RunEnded("faulted", text)
