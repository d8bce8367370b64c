"""Looks whether a decoder gives a request the same bits in every circumstance: the probes of its certificate.

Fixed prompts are prefilled and continued by fixed tokens, so all circumstances have the same inputs, and every logit is
compared with that of the request alone. Circumstances: again; in other slots, with neighbours that come and go, and
with rubbish in the cells that it does not use; with fewer rows; in one prefill or two, on copied cells of an earlier
prompt. What differs decides how the model may generate: with several slots or one, in decodes of which sizes, with a
prefix cache or without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from blake3 import blake3

from rota.generation.slot_decoder import PREFILL_TOKENS_MIN, SlotDecoder
from rota.tensors.arrays import Array

CONTEXT_MIN: Final = 16  # of a decoder that can be probed

_TOKENS: Final = "rota 2026-11 probe prompt"
_LENGTHS: Final = (2, 3, 9, 21, 70, 1)  # of prompts; that of a single token is read by a decode
_BASE_SCRIPT: Final = 2
_FOLLOWING: Final = 6
_KNOWN: Final = (2, 16, 19, 32)  # cells of an earlier prompt; stricter than the cache, which takes whole blocks only
_FOLLOWING_COPIES: Final = 2
_SIZES: Final = (1, 2, 4, 8, 16, 32)


class ProbeCount(NamedTuple):
    """What one probe found: runs of the session, rows of logits compared, rows that differ, by how much at most.

    `size`: the rows of its decodes. `max_difference` -1: one of two values is no number.
    """

    probe: str
    size: int
    runs: int
    rows: int
    differing: int
    max_difference: float


class DecoderFinding(NamedTuple):
    """How a decoder may generate. `sizes`: of its decodes, the last is the number of slots, 1 if requests change each
    other. `reason`: why it is not invariant, or why not repeatable.
    """

    sizes: tuple[int, ...]
    prefix_cache: bool
    is_repeatable: bool
    reason: str
    counts: tuple[ProbeCount, ...]


class Script(NamedTuple):
    """A request: the tokens of its prompt, and those that follow whatever the logits are."""

    prompt: tuple[int, ...]
    following: tuple[int, ...]


@dataclass(slots=True)
class _LogitsTally:
    """Compares rows of logits with those that the same script gave alone."""

    probe: str
    size: int
    expected: Sequence[Sequence[Array]]
    runs: int = 0
    rows: int = 0
    differing: int = 0
    max_difference: float = 0.0

    def compare(self, script: int, at: int, logits: Array) -> None:
        expected = self.expected[script][at]
        self.rows += 1
        if expected.tobytes() == logits.tobytes():
            return
        self.differing += 1
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(expected.astype(np.float64) - logits.astype(np.float64)).max())
        is_number = difference == difference and self.max_difference >= 0
        self.max_difference = max(self.max_difference, difference) if is_number else -1.0

    def count(self) -> ProbeCount:
        return ProbeCount(self.probe, self.size, self.runs, self.rows, self.differing, self.max_difference)


@dataclass(slots=True)
class _Running:
    """A script in a slot: the cells that are filled and the rows of logits that it gave."""

    script: int
    slot: int
    cells: int
    rows: int


Decoders = Callable[[Sequence[int]], SlotDecoder]
"""Makes a decoder whose decodes have these sizes; the last is the number of slots."""


def base_probe(decoder: SlotDecoder) -> list[tuple[str, Array]]:
    """Return logits for fixed inputs: of a prefill, and of a decode behind it in the first slot."""
    script = scripts_for(decoder)[_BASE_SCRIPT]
    logits = _alone(decoder, script._replace(following=script.following[:1]))
    return [(f"logits {at}", row) for at, row in enumerate(logits)]


def probe_decoder(decoders: Decoders, slots: int, *, on_host: bool, say: Callable[[str], None]) -> DecoderFinding:
    """Probe a decoder. `on_host`: its cells are in host memory, so that they can be copied, and fewer rows be tried."""
    decoder = decoders((slots,))
    scripts = scripts_for(decoder)
    say(f"generation in {slots} slots: a request alone")
    alone = [_alone(decoder, script) for script in scripts]
    again = _again(decoder, scripts, alone)
    counts = [again.count()]
    if again.differing:
        return DecoderFinding((1,), False, False, "the same request gives other bits when it runs again", tuple(counts))
    if slots > 1:
        say(f"generation in {slots} slots: with neighbours")
        together = _together(decoder, scripts, alone, slots, rounds=2)
        counts.append(together.count())
        if together.differing:
            single = probe_decoder(decoders, 1, on_host=on_host, say=say)
            reason = single.reason or "a request's bits depend on its slot or on its neighbours"
            return single._replace(reason=reason, counts=(*counts, *single.counts))
    sizes = [slots]
    if not on_host:
        return DecoderFinding(tuple(sizes), False, True, "", tuple(counts))
    for size in reversed([size for size in _SIZES if size < slots]):
        say(f"generation in {slots} slots: {size} of them in a decode")
        smaller = _together(decoders((size, slots)), scripts, alone, size, rounds=1)
        counts.append(smaller.count())
        if not smaller.differing:
            sizes.insert(0, size)
    say(f"generation in {slots} slots: on cells of an earlier prompt")
    copied = _on_copied_cells(decoder, scripts, alone)
    counts.append(copied.count())
    return DecoderFinding(tuple(sizes), not copied.differing, True, "", tuple(counts))


def scripts_for(decoder: SlotDecoder) -> list[Script]:
    """Return the fixed requests, as long as the context allows."""
    assert decoder.context >= CONTEXT_MIN, decoder.context
    made: list[Script] = []
    for at, wanted in enumerate(_LENGTHS):
        length = max(1, min(wanted, decoder.context - _FOLLOWING))
        stream = blake3(str(at).encode(), derive_key_context=_TOKENS).digest(length=4 * (length + _FOLLOWING))
        tokens = [int(word) % decoder.vocabulary for word in np.frombuffer(stream, "<u4")]
        made.append(Script(tuple(tokens[:length]), tuple(tokens[length:])))
    return made


def _alone(decoder: SlotDecoder, script: Script) -> list[Array]:
    running, logits = _begin(decoder, 0, script, slot=0, filled={})
    rows = [logits]
    while running.rows <= len(script.following):
        rows.append(_advance(decoder, [script], [running], {})[0])
    return rows


def _begin(
    decoder: SlotDecoder, number: int, script: Script, slot: int, filled: Mapping[int, int], known: int = 0
) -> tuple[_Running, Array]:
    """Read a prompt into a slot, behind `known` cells that it has; return the logits behind it."""
    prompt = script.prompt
    if len(prompt) < PREFILL_TOKENS_MIN:
        logits = decoder.decode({slot: (prompt[0], 0)}, filled)[slot].copy()
    else:
        logits = decoder.prefill(slot, known, prompt[known:]).copy()
    return _Running(number, slot, len(prompt), 1), logits


def _advance(
    decoder: SlotDecoder, scripts: Sequence[Script], running: Sequence[_Running], filled: Mapping[int, int]
) -> list[Array]:
    """Read the next token of each; return their rows of logits."""
    inputs = {one.slot: (scripts[one.script].following[one.rows - 1], one.cells) for one in running}
    logits = decoder.decode(inputs, filled)
    for one in running:
        one.cells += 1
        one.rows += 1
    return [logits[one.slot].copy() for one in running]


def _again(decoder: SlotDecoder, scripts: Sequence[Script], alone: Sequence[Sequence[Array]]) -> _LogitsTally:
    tally = _LogitsTally("rerun", decoder.slots, alone)
    for number, script in enumerate(scripts):
        for at, logits in enumerate(_alone(decoder, script)):
            tally.compare(number, at, logits)
            tally.runs += 1
    return tally


def _together(
    decoder: SlotDecoder, scripts: Sequence[Script], alone: Sequence[Sequence[Array]], slots: int, rounds: int
) -> _LogitsTally:
    """Run requests in the first `slots` slots: all are filled at once, and in a second round one joins in each step."""
    tally = _LogitsTally("neighbours and slots", slots, alone)
    requests = [at % len(scripts) for at in range(max(slots, len(scripts)))]
    for joining in (slots, 1)[:rounds]:
        _scribble(decoder, scripts)
        _run_all(decoder, scripts, tally, requests if joining == slots else requests * 2, slots, joining)
    return tally


def _run_all(
    decoder: SlotDecoder, scripts: Sequence[Script], tally: _LogitsTally, waiting: list[int], slots: int, joining: int
) -> None:
    waiting = list(waiting)
    free = list(range(slots))
    running: list[_Running] = []
    while waiting or running:
        for _ in range(min(joining, len(free), len(waiting))):
            number = waiting.pop()
            filled = {one.slot: one.cells for one in running}
            one, logits = _begin(decoder, number, scripts[number], free.pop(), filled)
            tally.compare(number, 0, logits)
            tally.runs += 1
            running.append(one)
        for one, logits in zip(running, _advance(decoder, scripts, running, {}), strict=True):
            tally.compare(one.script, one.rows - 1, logits)
        tally.runs += 1
        for one in [one for one in running if one.rows > len(scripts[one.script].following)]:
            running.remove(one)
            free.insert(0, one.slot)  # used again after all others


def _on_copied_cells(decoder: SlotDecoder, scripts: Sequence[Script], alone: Sequence[Sequence[Array]]) -> _LogitsTally:
    """Prefill the beginning of each prompt as that of another one, and the rest behind a copy of its cells."""
    tally = _LogitsTally("cells of an earlier prompt", decoder.slots, alone)
    for number, script in enumerate(scripts):
        length = len(script.prompt)
        for known in [known for known in _KNOWN if PREFILL_TOKENS_MIN <= known <= length - PREFILL_TOKENS_MIN]:
            _scribble(decoder, scripts)
            other = (*script.prompt[:known], *reversed(script.following))
            decoder.prefill(0, 0, other)
            cells = decoder.cells.copy(0, 0, known)
            _scribble(decoder, scripts)
            slot = decoder.slots - 1
            decoder.cells.put(slot, 0, cells)
            running, logits = _begin(decoder, number, script, slot, {}, known)
            tally.compare(number, 0, logits)
            tally.runs += 2
            while running.rows <= _FOLLOWING_COPIES:
                tally.compare(number, running.rows, _advance(decoder, scripts, [running], {})[0])
                tally.runs += 1
    return tally


def _scribble(decoder: SlotDecoder, scripts: Sequence[Script]) -> None:
    decoder.cells.scribble(max(len(script.prompt) + len(script.following) for script in scripts))
