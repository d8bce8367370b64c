"""The report of gpu_check.py as tables in Markdown, and what in it must not be. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report, and what is missing."""
    lines = _head(report)
    for one in report["results"]:
        title = f"{one['stage']} ({one['variant']})"
        if "result" not in one:
            continue
        table = list(_TABLES[one["stage"]](one["result"]))
        if table:
            lines += ["", f"**{title}**", "", *table]
    lines += ["", "| stage | variant | not measured, because |", "|---|---|---|"]
    missing = [one for one in report["results"] if "result" not in one]
    lines += [f"| {one['stage']} | {one['variant']} | {one.get('missing') or one.get('failed')} |" for one in missing]
    return "\n".join(lines if missing else lines[:-3])


def failures(report: dict[str, Any]) -> list[str]:
    """Return the stages that failed and the results that must be equal and are not."""
    found = []
    for one in report["results"]:
        title = f"{one['stage']} ({one['variant']})"
        if "failed" in one:
            found.append(f"{title}: {one['failed']}")
        if one["stage"] == "pair" and "result" in one:
            every = [*one["result"]["alone"], *one["result"]["together"]]
            if any(digests != every[0] for digests in every):
                found.append(f"{title}: processes that share a device differ from one alone")
        if one["variant"] == "ours" and one["stage"] == "operators" and "result" in one:
            moving = [name for name, facts in one["result"].items() if not facts["stable"] and name != "random-uniform"]
            if moving:
                found.append(f"{title}: differ from run to run: {', '.join(moving)}")
    return found


def _head(report: dict[str, Any]) -> list[str]:
    first = report["results"][0].get("result")
    if first is None:
        return ["The first stage gave no result."]
    facts = first["facts"]
    where = facts["gpu"].get("name") or facts["processor"].get("name", "")
    lines = [f"{facts['package']} {facts['runtime']}, {first['provider']}: {where}."]
    if not report["cuda"]:
        lines.append(f"CUDA: not measured ({first['reason']}).")
    if report["quick"]:
        lines.append("Small sizes: the figures mean nothing.")
    return lines


def _providers(result: dict[str, Any]) -> Iterator[str]:
    if result["fallbacks"]:
        yield "| graph | why it is not wholly on CUDA |"
        yield "|---|---|"
        yield from (f"| {name} | {reason} |" for name, reason in result["fallbacks"].items())


def _operators(result: dict[str, Any]) -> Iterator[str]:
    yield "| operators | run to run | neighbours | positions differ at | sizes with equal bits |"
    yield "|---|---|---|---|---|"
    for name, facts in result.items():
        sizes = "; ".join(", ".join(str(size) for size in group) for group in facts["equal_sizes"])
        positions = ", ".join(str(size) for size in facts["positions"]) or "-"
        where = "" if facts["provider"] == "cuda" else f" ({facts['provider']})"
        yield (
            f"| {name}{where} | {'=' if facts['stable'] else 'DIFF'} | {'DIFF' if facts['neighbours'] else '='} "
            f"| {positions} | {sizes} |"
        )


def _decoder(result: dict[str, Any]) -> Iterator[str]:
    yield "| decoder | class | slots | rows of logits compared | that differ | reason |"
    yield "|---|---|---|---|---|---|"
    for name, facts in result.items():
        if "class" not in facts:
            yield f"| {name} | - | - | - | - | {facts.get('missing') or facts['failed']} |"
            continue
        rows, differing = (sum(one[key] for one in facts["evidence"]) for key in ("rows", "differing"))
        yield f"| {name} | {facts['class']} | {facts['slots']} | {rows} | {differing} | {facts['reason'] or '-'} |"


def _tokens(result: dict[str, Any]) -> Iterator[str]:
    yield "| weights | greedy tokens compared | providers | part at token |"
    yield "|---|---|---|---|"
    for name, facts in result.items():
        parts = "never" if facts["parts_at"] is None else facts["parts_at"]
        yield f"| {name} | {facts['compared']} | {' and '.join(facts['providers'])} | {parts} |"


def _pair(result: dict[str, Any]) -> Iterator[str]:
    equal = all(digests == result["alone"][0] for digests in result["together"])
    yield f"Two processes at the same time give the bits of one alone: {'yes' if equal else 'NO'}."


def _convolutions(result: dict[str, Any]) -> Iterator[str]:
    first = result["digests"][0]
    equal = all(digests == first for digests in result["digests"])
    times = ", ".join(f"{name}: {seconds * 1e3:.2f} ms" for name, seconds in result["seconds_per_run"].items())
    yield f"Three fresh processes give the same bits: {'yes' if equal else 'NO'}. {times}."


def _graphs(result: dict[str, Any]) -> Iterator[str]:
    plain, captured = result["ours"], result["graphs"]
    if isinstance(plain, str) or isinstance(captured, str):
        yield f"Not measured: {plain if isinstance(plain, str) else captured}"
        return
    equal = "yes" if plain["digest"] == captured["digest"] else "NO"
    yield f"A captured graph gives the same bits: {equal}. {plain['microseconds']} us a run without, "
    yield f"{captured['microseconds']} us with."


def _throughput(result: dict[str, Any]) -> Iterator[str]:
    yield "| what | rate | plain loop of the same session |"
    yield "|---|---|---|"
    for size, rate in result["mlp rows/s"].items():
        yield f"| MLP 256-256-10, {size} rows a run | {rate} rows/s | the same |"
    for slots, rates in result["decoder"].items():
        what = f"decoder {result['element']}, {slots} requests"
        yield f"| {what} | {rates['tokens/s']} tokens/s | {rates['plain loop']} |"


_TABLES = {
    "providers": _providers, "operators": _operators, "decoder": _decoder, "tokens": _tokens, "pair": _pair,
    "convolutions": _convolutions, "graphs": _graphs, "throughput": _throughput,
}  # fmt: skip
