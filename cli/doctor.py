"""`rota doctor`: runs the checks of checks.py and prints their findings, the worst last."""

from __future__ import annotations

from typing import Final

import click

from rota.cli.checks import CHECKS
from rota.cli.common_options import Connection, broker_options, json_option
from rota.cli.exits import ExitCode
from rota.cli.output import cell, print_json

_ORDER: Final = ("ok", "note", "warning", "error")
_COLORS: Final = {"ok": "green", "note": "blue", "warning": "yellow", "error": "red"}


@click.command()
@json_option
@broker_options
def doctor(connection: Connection, json: bool) -> int:
    """Check packages, providers, disk, limits, risky settings, and whether a broker answers.

    The exit code is 1 if there is an error, else 0.

    \b
    rota doctor
    rota doctor --json | jq '.[] | select(.level == "error")'
    """
    findings = [finding for check in CHECKS for finding in check(connection)]
    if json:
        print_json(findings)
    else:
        for finding in sorted(findings, key=lambda one: _ORDER.index(one.level)):
            level = click.style(finding.level.ljust(7), fg=_COLORS[finding.level])
            click.echo(f"{level}  {finding.check}: {cell(finding.message, full=True)}")
            if finding.remedy:
                click.echo(f"         -> {finding.remedy}")
    return ExitCode.FAILED if any(finding.level == "error" for finding in findings) else ExitCode.OK
