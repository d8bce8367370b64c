"""Decodes tasks into calls that wait for their model: of tensors, of texts to encode, of texts to generate.

A task with a payload that its model cannot take has its outcome here. A task with several texts becomes one call of one
row for each, so that texts of many tasks share batches; its outcome is there when the last of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rota.common.errors import BadPayload, TensorError
from rota.common.limits import TENSORS_PER_TASK_MAX
from rota.common.text_calls import GenerateCall, decode_text_call
from rota.common.work import Done
from rota.gpu_worker.call_forms import CallForm, CallForms, InlineCall, inline_call
from rota.gpu_worker.call_plan import CallPlan
from rota.gpu_worker.inference import ReferencedCall
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.model_jobs import EncodedTask, FoldRun, QueuedCall, failed
from rota.gpu_worker.residents import ModelLine, Resident
from rota.gpu_worker.text_model import EncodingModel

_GENERATE = ("generate",)


class Admission:
    """Used by the executor's thread."""

    def __init__(self) -> None:
        self._forms = CallForms()

    def admit(self, line: ModelLine, resident: Resident, fold: FoldRun) -> None:
        """Queue the calls of a fold at its model."""
        if resident.generating is not None:
            self._each(fold, lambda index: self._admit_generate(line, fold, index))
        elif resident.encoding is not None:
            encoding = resident.encoding
            self._each(fold, lambda index: self._admit_texts(line, resident, encoding, fold, index))
        else:
            assert resident.session is not None
            self._admit_tensors(line, resident.session, fold)

    def _each(self, fold: FoldRun, admit: Callable[[int], None]) -> None:
        for index in range(len(fold.fold.tasks)):
            try:
                admit(index)
            except BadPayload as error:
                fold.refuse(index, error)

    def _admit_tensors(self, line: ModelLine, session: LoadedModel, fold: FoldRun) -> None:
        decode, add, of = self._forms.decode, line.waiting.add, QueuedCall.of
        form: CallForm | None = None  # of the call before: most have the same, and so the same plan
        for index, task in enumerate(fold.fold.tasks):
            try:
                decoded = decode(task.payload, task.tensors)
                if not isinstance(decoded, InlineCall):
                    plan, form = _fitting(session.plan(decoded)), None
                    add(of(fold, index, plan, ReferencedCall(decoded, task.tensors)))
                    continue
                if decoded.form is not form:
                    plan, form = _fitting(session.plan(decoded.form.call)), decoded.form
                add(of(fold, index, plan, decoded))
            except BadPayload as error:
                form = None
                fold.refuse(index, error)

    def part_done(self, call: QueuedCall, arrays: Mapping[str, Any]) -> None:
        """Note the outputs of one text of a task; with the last one the task has its outcome."""
        assert call.part is not None
        task, at = call.part
        task.outputs[at] = arrays
        task.left -= 1
        if task.left:
            return
        fold, index = call.fold, call.place
        try:
            result, references = task.texts.packed([outputs for outputs in task.outputs if outputs is not None])
        except BadPayload as error:
            fold.refuse(index, error)
            return
        except TensorError as error:
            fold.cut(index, "faulted", error.message)
            return
        limit = fold.fold.code.limits.result_bytes
        if len(result) > limit or len(references) > TENSORS_PER_TASK_MAX:
            fold.finish(index, failed("bad_output", f"the result has {len(result)} bytes, the limit is {limit}"))
            return
        fold.finish(index, Done(result, None, (), (), 0, references))

    def _admit_texts(
        self, line: ModelLine, resident: Resident, encoding: EncodingModel, fold: FoldRun, index: int
    ) -> None:
        session = resident.session
        assert session is not None
        texts = encoding.rows(fold.fold.tasks[index].payload)
        calls = [inline_call(call) for call in texts.calls]
        task = EncodedTask(texts, len(calls))
        if not calls:
            result, references = texts.packed([])
            fold.finish(index, Done(result, None, (), (), 0, references))
            return
        plans = [_fitting(session.plan(call.form.call)) for call in calls]
        for at, (call, plan) in enumerate(zip(calls, plans, strict=True)):
            line.waiting.add(QueuedCall.of(fold, index, plan, call, (task, at)))

    def _admit_generate(self, line: ModelLine, fold: FoldRun, index: int) -> None:
        call = decode_text_call(fold.fold.tasks[index].payload, "generate")
        assert isinstance(call, GenerateCall)
        line.waiting.add(QueuedCall(fold, index, fold.fold.lane_seed, _GENERATE, 1, 0, None, call, None))


def _fitting(plan: CallPlan) -> CallPlan:
    """Return the plan. Raises `BadPayload` if such calls do not fit their model."""
    if plan.misfit:
        raise BadPayload(plan.misfit)
    return plan
