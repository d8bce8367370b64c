"""`rota compact`: cuts old records of a run without a broker, and removes unreferenced files."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rota.cli.common_options import ByteCount, Number, Whole, dir_option, json_option, option, progress_option
from rota.cli.output import Progress, print_facts, print_json
from rota.common.limits import NOW_MS_MAX, TENSOR_LEASE_MS

if TYPE_CHECKING:
    from rota.broker.compaction import Place

# What a dry run cannot foretell.
_DONE = (
    "file_bytes_after", "modules_removed", "modules_bytes", "tensors_removed", "tensors_bytes", "messages_removed",
    "messages_bytes",
)  # fmt: skip
_COUNT = Whole(0, NOW_MS_MAX)


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@option("--keep-records", type=_COUNT, metavar="N", help="Keep at least the newest N records.")
@option("--keep-days", type=Number(0, 36_500), metavar="DAYS", help="Keep records younger than this.")
@option(
    "--keep-bytes", type=ByteCount(0, NOW_MS_MAX), metavar="BYTES", help="Keep at least the newest BYTES of records."
)
@option("--pin", "pins", multiple=True, metavar="NAME[=PLACE]",
        help="Never cut behind PLACE: a record number, or TURN@LANE; else the end. May be repeated.")  # fmt: skip
@option("--unpin", "unpins", multiple=True, metavar="NAME", help="Remove a pin. May be repeated.")
@option("--tensor-lease-ms", type=_COUNT, default=TENSOR_LEASE_MS, envvar="ROTA_TENSOR_LEASE_MS",
        help="How long an unreferenced tensor lives.")  # fmt: skip
@option("--conversation-days", type=Whole(0, 36_500), metavar="DAYS",
        help="Remove conversations unused for so long that nothing names; without it, none.")  # fmt: skip
@option("--dry-run", is_flag=True, help="Say what would be cut, and change nothing.")
@json_option
@progress_option
@dir_option
def compact(
    run: Path | None,
    keep_records: int | None,
    keep_days: float | None,
    keep_bytes: int | None,
    pins: tuple[str, ...],
    unpins: tuple[str, ...],
    tensor_lease_ms: int,
    conversation_days: int | None,
    dry_run: bool,
    json: bool,
    progress: bool | None,
    folder: Path,
) -> None:
    """Make a run folder smaller; no broker may be running on it, except with --dry-run.

    A record is cut only if every given --keep option allows it, and never behind a pinned place. Without a --keep
    option no record is cut. A snapshot replaces the records that were cut, and the chain of digests continues.
    Unreferenced modules and tensors are removed, and with --conversation-days old conversations.

    \b
    rota compact --keep-records 100000
    rota compact my-run --keep-days 30 --pin before-upgrade
    rota compact --pin bug=1720@main --dry-run
    rota compact --conversation-days 90
    """
    from rota.broker.compaction import Wishes
    from rota.broker.compaction import compact as carry_out
    from rota.host.clock import HostClock
    from rota.host.endpoints import RunFolder
    from rota.runs.open import open_run

    named = run or folder
    root = named.parent if named.is_file() and named.name == RunFolder(named.parent).journal.name else named
    places = dict([_pin(text) for text in pins])
    with Progress(progress, "") as shown, contextlib.ExitStack() as copies:
        # A dry run looks at a copy, so that a broker may be running.
        looked_at = copies.enter_context(open_run(root)).journal_path.parent if dry_run else root
        report = carry_out(
            RunFolder(looked_at),
            Wishes(keep_records, keep_days, keep_bytes),
            pins=places,
            unpins=unpins,
            lease_ms=tensor_lease_ms,
            clock=HostClock(),
            conversation_days=conversation_days,
            dry_run=dry_run,
            say=shown.show,
        )
    facts = {name: value for name, value in report._asdict().items() if not (dry_run and name in _DONE)}
    if json:
        print_json({**facts, "dry_run": dry_run})
        return
    cut_first, cut_last, kept = facts.pop("cut_first"), facts.pop("cut_last"), facts.pop("pins")
    would = "would be cut" if dry_run else "were cut"
    click.echo(f"records {cut_first} to {cut_last} {would}" if cut_last else "no record is cut")
    print_facts(facts)
    for name, number in kept.items():
        click.echo(f"pin {name}: record {number}")


def _pin(text: str) -> tuple[str, Place]:
    from rota.broker.compaction import Place

    name, _, place = text.partition("=")
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise click.UsageError(f"--pin {text!r}: a name has up to 64 letters, digits, _ . -")
    turn, at, lane = place.partition("@")
    if not place and "=" not in text:
        return name, Place()
    if not turn.isdecimal() or (at and not lane):
        raise click.UsageError(f"--pin {text!r}: a place is a record number or TURN@LANE")
    return name, Place(lane=lane, turn=int(turn)) if at else Place(record=int(turn))
