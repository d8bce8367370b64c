"""Runs calls of one model: binds them to the session, runs them under the watchdog, packs the outputs.

Inline calls are copied into the buffers of a cached binding: one call at its own shape, or the rows of many in a batch
that is padded to a size of the model's certificate. A call with tensors of the store or a large output gets its own
binding over the mapped files. All give a row the same bits: every buffer is 64-byte aligned, and a row meets only sizes
that the certificate found equal (decision 0020).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np

from rota.common.errors import BadPayload, DeviceLost
from rota.common.model_call import DTYPE_BYTES, Call, Tensor, encode_result
from rota.common.tensor_heads import TensorHeads
from rota.common.work import TensorRef
from rota.gpu_worker.call_forms import InlineCall
from rota.gpu_worker.call_plan import CallPlan
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.model_io import BoundCall, OutputShapes, Port
from rota.gpu_worker.providers import RUN_ERRORS, error_text
from rota.gpu_worker.run_errors import meaning_of
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.arrays import Array, aligned_empty, array_of
from rota.tensors.format import inline_bytes_max
from rota.tensors.store import TensorDraft, TensorStore

Packed = tuple[bytes, tuple[TensorRef, ...]]
"""The payload of a result, and the tensor references that it indexes."""


class RunEnded(Exception):
    """This worker has no outcome for a task: it was stopped, or cannot be done here."""

    def __init__(
        self, stopped: Literal["timeout", "interrupted", "faulted"], reason: str, *, out_of_memory: bool = False
    ) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory
        self.stopped = stopped
        self.reason = reason


class ReferencedCall(NamedTuple):
    """A call with tensors of the store."""

    call: Call
    references: tuple[TensorRef, ...]


class Inference:
    """Runs calls, several in one batch or one alone. Use it in the executor's thread only."""

    def __init__(self, tensors: TensorStore | None, watchdog: RunWatchdog) -> None:
        self._tensors = tensors
        self._watchdog = watchdog
        self._heads = TensorHeads("outputs")

    def run_batch(
        self, model: LoadedModel, plan: CallPlan, calls: Sequence[InlineCall], rows: Sequence[int], timeout_ms: int
    ) -> list[Packed]:
        """Run calls of one shape in one batch, padded to a size of their certificate; return their results in order.

        `rows` are those of each call. Raises as `run` does, without saying which call is to blame.
        """
        bound, arrays = self._run_together(model, plan, calls, rows, timeout_ms)
        return self._cut(bound, arrays, rows)

    def run_rows(
        self, model: LoadedModel, plan: CallPlan, calls: Sequence[InlineCall], rows: Sequence[int], timeout_ms: int
    ) -> list[dict[str, Array]]:
        """Run calls as `run_batch` does, also one that has no batches; return copies of their outputs."""
        if plan.misfit:
            raise BadPayload(plan.misfit)
        if not plan.sizes:
            bound = model.kept_binding(plan, 0)
            self._fill(bound, calls, 0, 0)
            return [{name: array.copy() for name, array in self._run(model, bound, timeout_ms).items()}]
        _, arrays = self._run_together(model, plan, calls, rows, timeout_ms)
        ends = list(accumulate(rows))
        return [
            {name: array[end - count : end].copy() for name, array in arrays.items()}
            for end, count in zip(ends, rows, strict=True)
        ]

    def _run_together(
        self, model: LoadedModel, plan: CallPlan, calls: Sequence[InlineCall], rows: Sequence[int], timeout_ms: int
    ) -> tuple[BoundCall, Mapping[str, Array]]:
        size = plan.size_for(sum(rows))
        bound = model.kept_binding(plan, size)
        self._fill(bound, calls, size, sum(rows))
        arrays = self._run(model, bound, timeout_ms)
        for name, array in arrays.items():
            if not array.ndim or array.shape[0] != size:
                raise RunEnded("faulted", f'output "{name}" has the shape {list(array.shape)} for {size} rows')
        return bound, arrays

    def run(self, model: LoadedModel, plan: CallPlan, call: InlineCall | ReferencedCall, timeout_ms: int) -> Packed:
        """Run one call by itself, padded if its bits would be others at its own shape.

        Raises `BadPayload` if the call does not fit the model, `TensorError` if the store has no such tensor or no
        room, `RunEnded` if the run was stopped or failed for a reason other than its input, `DeviceLost` if no call can
        succeed any more.
        """
        if plan.misfit:
            raise BadPayload(plan.misfit)
        size = plan.size_for(plan.rows)
        if isinstance(call, InlineCall) and size and size != plan.rows:
            return self.run_batch(model, plan, [call], [plan.rows], timeout_ms)[0]
        if isinstance(call, ReferencedCall) and size and size != plan.rows:
            return self._run_padded(model, plan, call, size, timeout_ms)
        outputs = model.output_shapes(plan.call)
        try:
            return self._run_at_own_shape(model, plan, call, outputs, timeout_ms)
        except BadPayload:
            if not model.declared_outputs_hold:
                raise
        # Either the input is bad, or the graph's outputs differ from their declared shapes: retry without those.
        result = self._run_in_place(model, plan, call, dict.fromkeys(outputs), timeout_ms)
        model.distrust_declared_outputs()
        return result

    def _run_at_own_shape(
        self,
        model: LoadedModel,
        plan: CallPlan,
        call: InlineCall | ReferencedCall,
        outputs: OutputShapes,
        timeout_ms: int,
    ) -> Packed:
        if isinstance(call, ReferencedCall) or (self._tensors is not None and _large(outputs)):
            return self._run_in_place(model, plan, call, outputs, timeout_ms)
        bound = model.kept_binding(plan, plan.size_for(plan.rows))  # its own rows, or 0
        self._fill(bound, [call], 0, 0)
        return self._packed(bound, self._run(model, bound, timeout_ms), {})

    def _run_in_place(
        self,
        model: LoadedModel,
        plan: CallPlan,
        call: InlineCall | ReferencedCall,
        outputs: OutputShapes,
        timeout_ms: int,
    ) -> Packed:
        """Run a call without copies: inputs are mapped from the store, large outputs written into drafts of it."""
        places = self._mapped_inputs(call) if isinstance(call, ReferencedCall) else {}
        with contextlib.ExitStack() as stack:  # drops the drafts if the run fails
            drafts = self._drafts(outputs, stack)
            places.update((name, draft.array) for name, draft in drafts.items())
            bound = model.bind(plan.call, outputs, places)
            self._fill_inline(bound, call)
            return self._packed(bound, self._run(model, bound, timeout_ms), drafts)

    def _run_padded(
        self, model: LoadedModel, plan: CallPlan, call: ReferencedCall, size: int, timeout_ms: int
    ) -> Packed:
        """Run a call with tensors of the store at `size` rows, which costs a copy of them."""
        padded = model.at_size(plan, size)
        mapped = self._mapped_inputs(call)
        places: dict[str, Array] = {}
        for name, tensor in call.call.inputs.items():
            array = mapped[name] if name in mapped else array_of(tensor, call.references, self._tensors)
            place = places[name] = aligned_empty(array.dtype, padded.inputs[name].shape)
            place[: plan.rows] = array
            place[plan.rows :] = array[:1]
        bound = model.bind(padded, model.output_shapes(padded), places)
        return self._cut(bound, self._run(model, bound, timeout_ms), [plan.rows])[0]

    # --- inputs ---

    def _fill(self, bound: BoundCall, calls: Sequence[InlineCall], size: int, rows: int) -> None:
        """Copy the inputs of calls into the buffers of a batch, one behind the other; the first row fills the rest."""
        for name in calls[0].form.spans:
            parts = [call.payload[slice(*call.form.spans[name])] for call in calls]
            if size > rows:
                first_rows = calls[0].form.call.inputs[name].shape[0]
                parts.append(parts[0][: len(parts[0]) // first_rows] * (size - rows))
            bound.fill(name, b"".join(parts) if len(parts) > 1 else parts[0])

    def _fill_inline(self, bound: BoundCall, call: InlineCall | ReferencedCall) -> None:
        if isinstance(call, InlineCall):
            self._fill(bound, [call], 0, 0)
            return
        for name, tensor in call.call.inputs.items():
            if isinstance(tensor.data, bytes):
                bound.fill(name, tensor.data)

    def _mapped_inputs(self, call: ReferencedCall) -> dict[str, Array]:
        arrays = {}
        for name, tensor in call.call.inputs.items():
            if not isinstance(tensor.data, bytes):
                array = array_of(tensor, call.references, self._tensors)
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

    # --- runs ---

    def _run(self, model: LoadedModel, bound: BoundCall, timeout_ms: int) -> Mapping[str, Array]:
        options = self._watchdog.arm(timeout_ms)
        try:
            arrays = bound.run(options)
        except RUN_ERRORS as error:
            raise _what_came_of(error, self._watchdog.disarm(), timeout_ms, model.opened.provider) from error
        self._watchdog.disarm()
        return arrays

    # --- results ---

    def _cut(self, bound: BoundCall, arrays: Mapping[str, Array], rows: Sequence[int]) -> list[Packed]:
        """Return the result of each call of a batch: its rows of every output."""
        heads_of = {count: self._heads_for(bound, arrays, count) for count in dict.fromkeys(rows)}
        ends = list(accumulate(rows))
        if None in heads_of.values():  # some results are not inline
            return [
                self._packed(bound, {name: array[end - count : end] for name, array in arrays.items()}, {})
                for end, count in zip(ends, rows, strict=True)
            ]
        columns = []
        for place, array in enumerate(arrays.values()):
            whole, width = array.tobytes(), array.nbytes // array.shape[0]
            head = {count: heads[place] for count, heads in heads_of.items() if heads is not None}
            columns.append(
                [
                    head[count] + whole[(end - count) * width : end * width]
                    for end, count in zip(ends, rows, strict=True)
                ]
            )
        return [(payload, ()) for payload in map(b"".join, zip(*columns, strict=True))]

    def _heads_for(self, bound: BoundCall, arrays: Mapping[str, Array], count: int) -> tuple[bytes, ...] | None:
        """Return the heads of a result with `count` rows of each output; None if some are too large to be inline."""
        sizes = [array.nbytes // array.shape[0] * count for array in arrays.values()]
        if self._tensors is not None and max(sizes) > inline_bytes_max(sizes):
            return None
        described = [
            (name, bound.dtypes[name], (count, *array.shape[1:]), size)
            for (name, array), size in zip(arrays.items(), sizes, strict=True)
        ]
        return self._heads.of(tuple(described))

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
        case "memory":
            return RunEnded("faulted", text, out_of_memory=True)
        case "fault":
            return RunEnded("faulted", text)
