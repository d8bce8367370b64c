"""Loaded models and where results were computed, for people: what `status`, `workers`, `submit` and `show` print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from rota.cli.output import print_table
from rota.common.work import Provenance

_COLUMNS = (
    "worker", "model", "on", "certificate", "memory", "calls", "rows", "rows_per_call", "prefilled", "cached",
    "generated",
)  # fmt: skip


def provenance_text(source: Provenance) -> str:
    """Return where a result was computed and what that is worth: `on cpu (no driver), certificate A, bitwise`."""
    why = f" ({source.fallback})" if source.fallback else ""
    certificate = f"certificate {source.certificate}" if source.certificate else "no certificate"
    return f"on {source.provider}{why}, {certificate}, {source.result_class}"


def tell_provenances(sources: Iterable[Provenance]) -> None:
    """Print on stderr where results of models were computed, each answer once with its number of results."""
    found: dict[str, int] = {}
    for source in sources:
        text = provenance_text(source)
        found[text] = found.get(text, 0) + 1
    for text, count in found.items():
        click.echo(f"computed {text}" + (f" ({count} results)" if count > 1 else ""), err=True)


def print_models(workers: list[dict[str, Any]]) -> None:
    """Print the loaded models of all workers with their counters, if there are any, and why some are not on the device
    that their worker wanted.
    """
    rows = [{"worker": worker["worker"], **one} for worker in workers for one in worker["models"]]
    if not rows:
        return
    click.echo()
    print_table([_row_of(row) for row in rows], _COLUMNS, "")
    for row in rows:
        if row["fallback"]:
            click.echo(f"{row['address']} runs on the {row['provider'].upper()} of {row['worker']}: {row['fallback']}")


def _row_of(row: dict[str, Any]) -> dict[str, Any]:
    calls, rows = row["calls"], row["rows"]
    told = {"worker": row["worker"], "model": row["address"], "on": row["provider"]}
    told |= {"certificate": row["certificate"] or "none", "memory": f"{row['held_bytes'] / (1 << 20):.1f} MiB"}
    told |= {"calls": calls, "rows": rows, "rows_per_call": f"{rows / calls:.1f}" if calls else None}
    return told | {name: row[f"tokens_{name}"] or None for name in ("prefilled", "cached", "generated")}
