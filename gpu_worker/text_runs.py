"""Runs the requests of models that generate text: starts them, steps them, streams their pieces, keeps conversations.

A conversation is resolved before its request starts, and the new messages with the answer are on the disk before the
outcome leaves. Time counts against a task's `timeout_ms` while its request is in a slot and its model computes.
"""

from __future__ import annotations

import time
from itertools import count

from rota.common.errors import BadPayload, ConversationError
from rota.common.text_calls import ChatMessage, GenerateCall
from rota.common.text_results import GenerateResult, encode_text_result
from rota.common.work import Done, Failed, Outcome
from rota.conversations.store import ConversationStore
from rota.generation.pieces import Piece
from rota.gpu_worker.model_jobs import QueuedCall, failed
from rota.gpu_worker.providers import RUN_ERRORS, check_device, error_text
from rota.gpu_worker.residents import ModelLine, Resident
from rota.gpu_worker.watchdog import RunWatchdog
from rota.worker.executor import Report, Streaming


class TextRuns:
    """Used by the executor's thread."""

    def __init__(self, watchdog: RunWatchdog, conversations: ConversationStore | None) -> None:
        self._watchdog = watchdog
        self._conversations = conversations
        self._numbers = count(1)
        self._left_ms: dict[int, float] = {}  # of the requests in progress

    def start(self, line: ModelLine, resident: Resident, call: QueuedCall) -> None:
        """Start a call in a free slot, or end it at once.

        Reading the prompt and the rule of the output can take long; the time counts, and the watchdog reports a call
        that does not come to an end.
        """
        model = resident.generating
        assert model is not None
        number = next(self._numbers)
        request = call.call
        assert isinstance(request, GenerateCall)
        begun_s = time.perf_counter()
        self._watchdog.arm(call.timeout_ms)
        failure: BadPayload | ConversationError | MemoryError | None = None
        try:
            model.start(number, request, self._history(request), call.task.now_ms)
        except (BadPayload, ConversationError, MemoryError) as error:
            failure = error
        stopped = self._watchdog.disarm()
        left_ms = call.timeout_ms - (time.perf_counter() - begun_s) * 1_000
        if isinstance(failure, BadPayload):
            call.fold.refuse(call.place, failure)
        elif isinstance(failure, ConversationError):
            call.fold.cut(call.place, "faulted", failure.message)
        elif failure is not None:
            call.fold.cut(call.place, "faulted", f"not enough memory for the prompt: {failure}")
        elif stopped == "timeout" or left_ms <= 0:
            call.fold.cut(call.place, "timeout", f"ran longer than {call.timeout_ms} ms")
        if call.is_wanted:
            line.texts[number] = call
            self._left_ms[number] = left_ms
        elif failure is None:
            model.drop(number)

    def step(self, line: ModelLine, resident: Resident, reports: list[Report]) -> None:
        """Do one step of all requests in progress; those that end have their outcome, or are cut from their fold."""
        model = resident.generating
        assert model is not None
        if model.is_idle:
            return
        begun_s = time.perf_counter()
        options = self._watchdog.arm(max(1, int(max([self._left_ms[number] for number in line.texts]))))
        try:
            pieces = model.step(options)
        except (*RUN_ERRORS, MemoryError) as error:
            check_device(error, resident.provenance.provider)
            self._failed(line, error)
            return
        self._watchdog.disarm()
        line.calls += 1
        line.rows += len(line.texts)
        for piece in pieces:
            call = line.texts.get(piece.request)
            if call is None:
                continue
            if isinstance(piece, Piece):
                job, address = call.fold.job.number, call.fold.fold.address
                reports.append(Streaming(job, address, call.task.turn, piece.offset, piece.text))
                continue
            self._forget(line, piece.request)
            self._finish(call, piece.result)
        self._end_late(line, (time.perf_counter() - begun_s) * 1_000)

    def drop(self, line: ModelLine, number: int) -> None:
        """Free the slot of a request whose outcome nobody wants."""
        assert line.resident is not None
        assert line.resident.generating is not None
        line.resident.generating.drop(number)
        self._forget(line, number)

    def close(self) -> None:
        """Close the store of conversations."""
        if self._conversations is not None:
            self._conversations.close()

    def _forget(self, line: ModelLine, number: int) -> None:
        del line.texts[number], self._left_ms[number]

    def _end_late(self, line: ModelLine, taken_ms: float) -> None:
        for number, call in list(line.texts.items()):
            self._left_ms[number] -= taken_ms
            if self._left_ms[number] <= 0:
                self.drop(line, number)
                call.fold.cut(call.place, "timeout", f"ran longer than {call.timeout_ms} ms")

    def _failed(self, line: ModelLine, error: Exception) -> None:
        """End all requests after a step that failed: each runs again alone, unless there was only one."""
        stopped = self._watchdog.disarm()
        ended = list(line.texts.values())
        for number in list(line.texts):
            self.drop(line, number)
        for call in ended:
            if stopped == "timeout" and len(ended) == 1:
                call.fold.cut(call.place, "timeout", f"ran longer than {call.timeout_ms} ms")
            elif stopped == "interrupted":
                call.fold.cut(call.place, "interrupted", "")
            else:
                call.fold.cut(call.place, "faulted", error_text(error))

    def _history(self, request: GenerateCall) -> tuple[ChatMessage, ...]:
        messages = request.messages or ()
        if request.conversation is None:
            return messages
        if self._conversations is None:
            raise ConversationError("there is no store of conversations here")
        return self._conversations.history(request.conversation, messages)

    def _finish(self, call: QueuedCall, result: GenerateResult | Failed) -> None:
        if isinstance(result, Failed):
            call.fold.finish(call.place, result)
            return
        request = call.call
        if request.conversation is not None:
            assert self._conversations is not None
            answer = ChatMessage("assistant", result.text, tool_calls=result.tool_calls or ())
            try:
                head = self._conversations.append(request.conversation, (*(request.messages or ()), answer))
            except ConversationError as error:
                call.fold.cut(call.place, "faulted", error.message)
                return
            result = result._replace(conversation=head)
        call.fold.finish(call.place, _outcome_of(result, call))


def _outcome_of(result: GenerateResult, call: QueuedCall) -> Outcome:
    packed = encode_text_result(result)
    limit = call.fold.fold.code.limits.result_bytes
    if len(packed) > limit:
        return failed("bad_output", f"the result has {len(packed)} bytes, the limit is {limit}")
    return Done(packed, None, (), (), 0, ())
