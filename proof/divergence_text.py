"""The first-divergence report for people: what, where, why, both sides, and how to see it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rota.proof.divergence import Bytes, Divergence
from rota.runs.readable import cut, readable

_CHARS_MAX: Final = 72
_PARENTS_SHOWN: Final = 8
_LOG_SHOWN: Final = 8
_EMITS_SHOWN: Final = 8
_FACTS_SHOWN: Final = 12
_DIGEST_CHARS: Final = 16
_HEX_GROUP: Final = 8


def lines(found: Divergence) -> list[str]:
    """Return a divergence as text, the most important first."""
    return [
        f"FIRST DIVERGENCE  {_where(found)}",
        f"  cause       {found.cause}: {cut(found.why, 400)}",
        *[f"              {cut(evidence, 400)}" for evidence in found.evidence],
        *_journal(found),
        *_descent(found),
        *_sides(found),
        *[line for one in found.bytes_differ for line in _bytes(one)],
        *_makers(found),
        f"  again       {found.command}",
    ]


def _where(found: Divergence) -> str:
    if found.lane is None:
        return f"record {found.record}"
    told = f"lane {found.lane!r}, turn {found.turn}"
    if found.seq is not None:
        told += f", seq {found.seq}, {found.kind} for {found.target}"
    return told


def _journal(found: Divergence) -> Iterator[str]:
    if found.last_good is not None and found.record is not None and found.last_good >= found.record:
        yield f"  journal     all records follow, up to record {found.last_good}"
    elif found.last_good is not None:
        yield f"  journal     breaks off at record {found.record}; the last good one is record {found.last_good}"
    elif found.record is not None:
        yield f"  record      {found.record}"
    if found.unproved:
        turns = ", ".join(f"{lane} from turn {turn}" for lane, turn in found.unproved)
        yield f"  not proved  {cut(turns, 400)}"


def _descent(found: Divergence) -> Iterator[str]:
    for parent in found.parents[:_PARENTS_SHOWN]:
        yield f"  from        turn {parent.turn}, seq {parent.seq}, {parent.kind} for {cut(parent.target, _CHARS_MAX)}"
    if len(found.parents) > _PARENTS_SHOWN:
        yield f"              and {len(found.parents) - _PARENTS_SHOWN} more above"
    if found.origin is not None:
        who = "" if found.origin.producer is None else f", request {found.origin.number} of {found.origin.producer}"
        yield f"  input       record {found.origin.record} ({found.origin.kind}){who}"


def _sides(found: Divergence) -> Iterator[str]:
    if found.differs:
        yield f"  differs     {', '.join(found.differs)}"
    for name, side in (("expected", found.expected), ("actual", found.actual)):
        if side is not None:
            for place, line in enumerate(_side(side, _digest_chars(found))):
                yield f"  {name if not place else '':<12}{line}"


def _digest_chars(found: Divergence) -> int:
    """Return how many digest characters are needed to tell the two states apart."""
    sides = [side["state_digest"] for side in (found.expected, found.actual) if side is not None]
    alike = len(sides) == 2 and None not in sides and sides[0] != sides[1] and sides[0][:8] == sides[1][:8]
    return 64 if alike else _DIGEST_CHARS


def _side(side: Mapping[str, Any], digest_chars: int) -> Iterator[str]:
    if side["ok"]:
        result = side["result"]
        yield f"ok, {side['fuel']} fuel, result {'none' if result is None else readable(result, _CHARS_MAX)}"
        for index, emit in enumerate(side["emits"][:_EMITS_SHOWN]):
            yield f"emit {index}: {emit['kind']} {emit['target']}: {readable(emit['payload'], _CHARS_MAX)}"
        if len(side["emits"]) > _EMITS_SHOWN:
            yield f"and {len(side['emits']) - _EMITS_SHOWN} more emits"
    else:
        yield f"failed {side['kind']}: {cut(side['message'], _CHARS_MAX)}, {side['fuel']} fuel"
    yield f"state {_state(side, digest_chars)}"
    if side["provenance"] is not None:
        made = side["provenance"]
        yield f"by {made['provider']}, fingerprint {made['fingerprint'].hex()[:_DIGEST_CHARS]}, {made['result_class']}"
    for line in side["log"][:_LOG_SHOWN]:
        yield f"log: {cut(line, _CHARS_MAX)}"


def _state(side: Mapping[str, Any], digest_chars: int) -> str:
    if side["state_digest"] is None:
        return "none"
    short = side["state_digest"].hex()[:digest_chars]
    if side["state"] is None:
        return f"{short} (the run has only its digest)" if side["state_from"] == "digest" else short
    return f"{short} ({side['state_from']}): {readable(side['state'], _CHARS_MAX)}"


def _bytes(one: Bytes) -> Iterator[str]:
    sizes = f"{one.expected_bytes} and {one.actual_bytes} bytes"
    yield f"  {one.what}: first differs at byte {one.at} ({sizes}), shown from byte {one.window_at}"
    yield f"    expected  {_hex(one.expected_hex)}  {one.expected_text}"
    yield f"    actual    {_hex(one.actual_hex)}  {one.actual_text}"
    yield f"              {_mark(one)}"


def _mark(one: Bytes) -> str:
    digits = 2 * (one.at - one.window_at)
    return " " * (digits + digits // _HEX_GROUP) + "^^"


def _hex(text: str) -> str:
    return " ".join(text[start : start + _HEX_GROUP] for start in range(0, len(text), _HEX_GROUP)) or "-"


def _makers(found: Divergence) -> Iterator[str]:
    if found.code_digest is not None:
        yield f"  code        {found.code_digest.hex()}"
    worker = found.recorded_by
    if worker is None:
        return
    yield f"  worker      {cut(worker.name, _CHARS_MAX)}, fingerprint {worker.number}, pool {worker.pool}"
    there, here = dict(worker.facts), dict(found.here)
    other = [name for name in sorted(dict.fromkeys([*there, *here])) if there.get(name) != here.get(name)]
    if not other:
        yield "  here        the same engine, machine and device facts"
    for name in other[:_FACTS_SHOWN]:
        yield f"  fact        {name}: {cut(there.get(name, 'none'), _CHARS_MAX)}"
        yield f"    here      {cut(here.get(name, 'none'), _CHARS_MAX)}"
