"""One loaded decoder: requests in, pieces of text and results out, with continuous batching in slots.

Each request has a slot. Its prompt is prefilled alone, in calls of up to BLOCK_TOKENS tokens; then it takes part in
every decode, one call for all slots, until it ends. Between two decodes few tokens of prompts are read. Requests join
and leave between steps. The tokens of a request depend on the request only: docs/INFERENCE.md says why, probes.py
looks whether it holds for this model here.

A prompt's cells may come from the prefix cache, but not the last two tokens, which give the first logits and are
prefilled together. Prompts are read in blocks that begin at multiples of BLOCK_TOKENS, and only whole blocks are kept,
so the rest of a prompt is read by the same calls as without the cache. Cells that a decode wrote have other bits than
prefilled ones and are never used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rota.common.errors import BadPayload
from rota.common.text_calls import ChatMessage, GenerateCall
from rota.common.text_results import GenerateResult, TokenLogprob, Usage
from rota.common.work import Failed
from rota.generation import tool_calls
from rota.generation.chat_template import ChatTemplate
from rota.generation.constraint import Constraint, Grammars
from rota.generation.generated_text import GeneratedText
from rota.generation.pieces import Generated, Piece
from rota.generation.prefix_cache import BLOCK_TOKENS, PrefixCache
from rota.generation.sampling import SamplingOptions, choose, log_probabilities
from rota.generation.slot_decoder import PREFILL_TOKENS_MAX, PREFILL_TOKENS_MIN, SlotDecoder
from rota.generation.vocabulary import Vocabulary

_COUNTERS: Final = ("prefilled", "cached", "generated", "prefills", "decodes")

_LiveLogits = NDArray[Any]


class TextSetup(NamedTuple):
    """What a model's files say beside its graph. `template` None: no messages."""

    vocabulary: Vocabulary
    template: ChatTemplate | None
    stop_tokens: tuple[int, ...]
    max_tokens: int
    logprobs_max: int


@dataclass(slots=True)
class _Request:
    """A request in its slot. `cells` counts the tokens whose keys and values are there."""

    number: int
    call: GenerateCall
    options: SamplingOptions
    prompt: Sequence[int]
    tokens_max: int
    stop_tokens: Mapping[int, None]
    text: GeneratedText
    tools: tool_calls.ToolFormat | None
    constraint: Constraint | None
    seen: NDArray[np.bool_] | None
    slot: int
    cells: int = 0
    began: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def is_prefilled(self) -> bool:
        """Whether all of the prompt is in the cells, or it is a single token, which a decode reads."""
        return self.cells >= len(self.prompt) or len(self.prompt) < PREFILL_TOKENS_MIN

    @property
    def next_input(self) -> int:
        """The token that the next decode reads."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]


class TextGenerator:
    """Implements `GeneratingModel` of gpu_worker/text_model.py. Use it in one thread."""

    def __init__(self, decoder: SlotDecoder, setup: TextSetup, cache: PrefixCache) -> None:
        self._decoder = decoder
        self._setup = setup
        self._cache = cache
        vocabulary = decoder.vocabulary
        self._grammars = Grammars(setup.vocabulary.path, vocabulary, setup.stop_tokens)
        self._nameless = _nameless(setup.vocabulary, vocabulary)
        self._requests: dict[int, _Request] = {}  # in the order of their start
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._read_tokens = 0  # by prefills since the last decode

    @property
    def is_full(self) -> bool:
        """Whether every slot has a request."""
        return len(self._requests) >= self._decoder.slots

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def held_bytes(self) -> int:
        """The memory of the cells and of the prefix cache, which is empty if it is off, at its largest."""
        return self._decoder.cells.shape.all_bytes + self._cache.bytes_max

    @property
    def counters(self) -> Mapping[str, int]:
        """Tokens `prefilled`, taken from the cache (`cached`) and `generated`; calls for `prefills` and `decodes`."""
        return self._counts

    def start(self, request: int, call: GenerateCall, messages: Sequence[ChatMessage], now_ms: int) -> None:
        """Accept a request, with the whole history as `messages` if it has any.

        Raises `BadPayload` if it cannot be done.
        """
        assert not self.is_full, "start() needs a free slot"
        assert request not in self._requests, request
        form = self._tool_format(call)
        prompt = self._prompt(call, messages, now_ms)
        self._check(call, prompt)
        taken = [other.slot for other in self._requests.values()]
        self._requests[request] = _Request(
            number=request,
            call=call,
            options=SamplingOptions(*[getattr(call, name) for name in SamplingOptions._fields]),
            prompt=prompt,
            tokens_max=min(call.max_tokens or self._setup.max_tokens, self._decoder.context - len(prompt)),
            stop_tokens=dict.fromkeys([*self._setup.stop_tokens, *call.stop_tokens]),
            text=GeneratedText(call.stop, strip_start=self._setup.vocabulary.strip_start),
            tools=form,
            constraint=self._constraint(call, form),
            seen=self._seen(call, prompt),
            slot=next(slot for slot in range(self._decoder.slots) if slot not in taken),
        )

    def step(self, run_options: Any = None) -> Sequence[Piece | Generated]:
        """Do one prefill, or one decode of all slots; nothing if idle.

        While texts are in progress, prefills of PREFILL_TOKENS_MAX tokens in all come between two decodes: several
        short prompts, or a part of a long one.
        `run_options` go to the run. What the library raises is raised: then nothing has changed, and the step may be
        repeated, or requests dropped.
        """
        reading = next((one for one in self._requests.values() if not one.is_prefilled), None)
        writing = [one for one in self._requests.values() if one.is_prefilled]
        if reading is not None:
            if not reading.began:
                self._take_known(reading)
            tokens = _chunk(reading.cells, len(reading.prompt))
            if not writing or not self._read_tokens or self._read_tokens + tokens <= PREFILL_TOKENS_MAX:
                return self._prefill(reading, tokens, run_options)
        return self._decode(writing, run_options) if writing else []

    def drop(self, request: int) -> None:
        """Forget a request and free its slot; does nothing if it has ended."""
        self._requests.pop(request, None)

    def renew(self, decoder: SlotDecoder, cache: PrefixCache) -> None:
        """Go on with other slots and another cache, for the same graph. Call it while idle."""
        assert self.is_idle
        assert decoder.vocabulary == self._decoder.vocabulary
        self._decoder, self._cache = decoder, cache

    def close(self) -> None:
        """Forget all requests and the cache."""
        self._requests.clear()
        self._cache.clear()

    def prepare(self) -> None:
        """Do now what the first constrained request would wait for."""
        self._grammars.prepare()

    # --- the beginning of a request ---------------------------------------------------------------

    def _tool_format(self, call: GenerateCall) -> tool_calls.ToolFormat | None:
        if not call.tools or call.tool_choice == "none":
            return None
        template = self._setup.template  # without one, messages are refused
        return tool_calls.format_of(template.source, template.takes_tools) if template else None

    def _prompt(self, call: GenerateCall, messages: Sequence[ChatMessage], now_ms: int) -> Sequence[int]:
        vocabulary = self._setup.vocabulary
        if call.tokens is not None:
            return call.tokens
        if call.prompt is not None:
            return vocabulary.tokens_of(self._bounded(call.prompt), add_special=True)
        template = self._setup.template
        if template is None:
            raise BadPayload("the model has no chat template, so it takes no messages: give it a prompt")
        tools = call.tools if call.tool_choice != "none" else ()
        if not template.takes_tools:
            messages, tools = tool_calls.told_of_tools(messages, tools, call.tool_choice), ()
        text = template.render(messages, tools, call.template, now_ms)
        return vocabulary.tokens_of(self._bounded(text), add_special=False)

    def _bounded(self, text: str) -> str:
        """Refuse text that no tokens can make fit, since reading it might take minutes."""
        longest = self._decoder.context * self._setup.vocabulary.longest
        if len(text) > longest:
            raise BadPayload(
                f"the prompt has {len(text)} characters; the model's context holds {self._decoder.context} tokens, "
                f"which are at most {longest}"
            )
        return text

    def _check(self, call: GenerateCall, prompt: Sequence[int]) -> None:
        context, vocabulary = self._decoder.context, self._decoder.vocabulary
        if not prompt:
            raise BadPayload("the prompt has no tokens")
        if len(prompt) >= context:
            raise BadPayload(
                f"the prompt has {len(prompt)} tokens; the model's context holds {context} with the answer, "
                f"so at most {context - 1}"
            )
        for name, tokens in (("prompt", prompt), ("generate.stop_tokens", call.stop_tokens)):
            if tokens and max(tokens) >= vocabulary:
                raise BadPayload(f'"{name}" has the token {max(tokens)}; the model has tokens 0 to {vocabulary - 1}')
        if call.logprobs is not None and call.logprobs > self._setup.logprobs_max:
            raise BadPayload(f'"generate.logprobs" is {call.logprobs}; this model gives {self._setup.logprobs_max}')

    def _constraint(self, call: GenerateCall, form: tool_calls.ToolFormat | None) -> Constraint | None:
        if call.output is not None:
            return self._grammars.constraint(call.output)
        if form is None or call.tool_choice == "auto":
            return None
        schema = tool_calls.call_schema(call.tools, call.tool_choice, form)
        return self._grammars.tool_call(form.opening, form.closing, schema)

    def _seen(self, call: GenerateCall, prompt: Sequence[int]) -> NDArray[np.bool_] | None:
        if call.repetition_penalty == 1.0:
            return None
        seen = np.zeros(self._decoder.vocabulary, np.bool_)
        seen[list(prompt)] = True
        return seen

    # --- the two kinds of step ---------------------------------------------------------------------

    def _prefill(self, request: _Request, count: int, run_options: Any) -> Sequence[Piece | Generated]:
        """Read the next `count` tokens of a prompt."""
        start = request.cells
        tokens = request.prompt[start : start + count]
        logits = self._decoder.prefill(request.slot, start, tokens, run_options)
        request.cells += count
        self._read_tokens += count
        self._counts["prefilled"] += count
        self._counts["prefills"] += 1
        if not request.is_prefilled:
            return []
        slot, kept = request.slot, request.prompt[: _whole_blocks(len(request.prompt))]
        self._cache.add(kept, lambda start, end: self._decoder.cells.copy(slot, start, end))
        return self._continue(request, logits)

    def _take_known(self, request: _Request) -> None:
        """Put the cells of the longest known beginning of the prompt into the slot."""
        request.began = True
        known = self._cache.find(request.prompt, len(request.prompt) - PREFILL_TOKENS_MIN)
        for block in known:
            self._decoder.cells.put(request.slot, request.cells, block)
            request.cells += BLOCK_TOKENS
        self._counts["cached"] += request.cells

    def _decode(self, writing: Sequence[_Request], run_options: Any) -> Sequence[Piece | Generated]:
        self._move_down(writing)
        inputs = {request.slot: (request.next_input, request.cells) for request in writing}
        filled = {request.slot: request.cells for request in self._requests.values() if not request.is_prefilled}
        logits = self._decoder.decode(inputs, filled, run_options)
        self._read_tokens = 0
        self._counts["decodes"] += 1
        reports: list[Piece | Generated] = []
        for request in writing:
            request.cells += 1
            reports += self._continue(request, logits[request.slot])
        return reports

    def _move_down(self, writing: Sequence[_Request]) -> None:
        """Move requests to lower slots if a smaller decode then holds all of them."""
        size_for = self._decoder.size_for
        fewest = size_for(len(writing))
        taken = {request.slot: None for request in self._requests.values()}
        free = [slot for slot in range(fewest) if slot not in taken]
        above = [request for request in writing if request.slot >= fewest]
        if not above or len(above) > len(free):
            return
        for request, slot in zip(above, free, strict=False):
            self._decoder.cells.move(request.slot, slot, request.cells)
            request.slot = slot

    # --- a new token -------------------------------------------------------------------------------

    def _continue(self, request: _Request, logits: _LiveLogits) -> Sequence[Piece | Generated]:
        """Choose the next token of a request from its logits; return what is to be reported."""
        try:
            failure = self._choose(request, logits)
        except BadPayload as error:  # the constraint became too much work
            failure = Failed("bad_input", error.message, (), 0)
        if failure is not None:
            self.drop(request.number)
            return [Generated(request.number, failure)]
        stop: str | int | None = None
        token = request.tokens[-1]
        text, constraint = request.text, request.constraint
        if token in request.stop_tokens:
            stop = token
        elif text.add(self._setup.vocabulary.bytes_of(token)):
            stop = text.stop
        elif (constraint is None or not constraint.is_complete) and len(request.tokens) < request.tokens_max:
            end = tool_calls.begin_of_calls(text.text, request.tools) if request.tools else None
            offset, piece = text.take(end=end)
            return [Piece(request.number, offset, piece)] if piece else []
        ended = stop is not None or (constraint is not None and constraint.is_complete)
        return self._ended(request, "stop" if ended else "length", stop)

    def _choose(self, request: _Request, logits: _LiveLogits) -> Failed | None:
        if not np.isfinite(logits.max()):
            return Failed("bad_output", "the model gives logits that are no finite numbers", (), 0)
        token = choose(logits, request.options, len(request.tokens), request.seen, self._allowed(request))
        if token < 0:
            return Failed("bad_output", "the model has no token that the constraint of the output allows here", (), 0)
        if request.call.logprobs is not None:
            request.logprobs.append(log_probabilities(logits, token, request.call.logprobs))
        if request.seen is not None:
            request.seen[token] = True
        if request.constraint is not None and token not in request.stop_tokens:
            request.constraint.accept(token)
        request.tokens.append(token)
        self._counts["generated"] += 1
        return None

    def _allowed(self, request: _Request) -> NDArray[np.bool_] | None:
        constraint = request.constraint
        if constraint is None:
            return self._nameless
        allowed = constraint.allowed()
        allowed[list(request.stop_tokens)] |= constraint.may_end
        return allowed if self._nameless is None else allowed & self._nameless

    def _ended(self, request: _Request, finish: str, stop: str | int | None) -> Sequence[Piece | Generated]:
        text = request.text
        if text.end() and stop is None:  # the unfinished character at its end completes a stop text
            finish, stop = "stop", text.stop
        end = len(text.text)
        calls = None
        if request.tools is not None:
            begin = tool_calls.begin_of_calls(text.text, request.tools)
            found = tool_calls.calls_in(text.text[begin:], request.call.tools, request.tools)
            if found:
                finish, end, calls = "tool_calls", begin, found
        offset, piece = text.take(is_last=True, end=end)
        result = GenerateResult(
            text.text[:end],
            tuple(request.tokens),
            finish,
            stop,
            Usage(len(request.prompt), len(request.tokens)),
            None if request.call.logprobs is None else tuple(request.logprobs),
            calls,
        )
        self.drop(request.number)
        pieces: list[Piece | Generated] = [Piece(request.number, offset, piece)] if piece else []
        return [*pieces, Generated(request.number, result)]


def _chunk(start: int, length: int) -> int:
    """Return how many tokens of a prompt the prefill from `start` on reads: a block, or what is left.

    Blocks begin at multiples of BLOCK_TOKENS, so the calls for a prompt are the same with and without cached cells: how
    many tokens a call has can change the bits of its last ones. If one token would be left, the block before it gives
    up its last one to be read with it.
    """
    if start % BLOCK_TOKENS:
        return length - start
    end = min(length, start + BLOCK_TOKENS)
    return (end - 1 if length - end == 1 else end) - start


def _whole_blocks(length: int) -> int:
    """Return how many tokens of a prompt were read in whole blocks."""
    return (length - 2 if length % BLOCK_TOKENS == 1 else length) // BLOCK_TOKENS * BLOCK_TOKENS


def _nameless(vocabulary: Vocabulary, logits: int) -> NDArray[np.bool_] | None:
    """Return which logits have a token, None if all: a model's vocabulary may be padded."""
    named = np.zeros(logits, np.bool_)
    named[vocabulary.ids] = True
    return None if named.all() else named
