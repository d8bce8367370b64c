"""`rota model probe`, and how `rota model show` prints certificates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.common_options import Whole, dir_option, json_option, option
from rota.cli.model_options import models_option, repository_of
from rota.cli.output import Progress, print_facts, print_json, print_table
from rota.host.install import install_command

if TYPE_CHECKING:
    from rota.gpu_worker.certificate import Certificate
    from rota.gpu_worker.repository import ModelEntry

_SHAPE_COLUMNS = ("shape", "class", "sizes", "reason")
_INVARIANT = (
    "a row has the same bits in any batch of these sizes",
    "a request has the same bits in any slot, with any neighbours",
)
_EVIDENCE_COLUMNS = ("probe", "size", "runs", "rows", "differing", "max_difference")


@click.command()
@click.argument("model")
@option("--threads", type=Whole(1), default=1, help="Threads of a session, as the workers have them.")
@option("--require", default="", help="The provider, as workers have it.")
@option("--device", type=Whole(0), default=0, help="Which GPU.")
@option("--again", is_flag=True, help="Probe even if there is a certificate.")
@models_option
@json_option
@dir_option
def probe(
    folder: Path, models: Path | None, model: str, threads: int, require: str, device: int, again: bool, json: bool
) -> None:  # fmt: skip
    """Find out what the bits of MODEL (NAME or NAME@VERSION) depend on, and show its certificate.

    A worker does the same when it loads a model first. Class A may share batches; B and C run alone; results of D are
    recorded values.

    \b
    rota model probe digits
    rota model probe digits@2 --threads 4
    """
    entry = repository_of(folder, models).named(model)
    with Progress(not json and sys.stderr.isatty(), "probing") as progress:
        value = _probed(entry, threads, require, device, again=again, show=progress.show)
    if json:
        print_json(value)
    else:
        print_certificate(value)


def certificates_of(entry: ModelEntry) -> list[dict[str, Any]]:
    """Return the certificates on file of a model, as `print_certificate` takes them."""
    from rota.gpu_worker.certificate_store import CertificateStore

    found = CertificateStore(entry.folder.parent.parent).all_of(entry.digest.hex())
    return [_value(certificate, one["conditions"]) for certificate, one in found]


def print_certificate(value: Mapping[str, Any]) -> None:
    """Print one certificate with its evidence."""
    print_facts({key: value[key] for key in value if key not in ("shapes", "decoder", "conditions")})
    for shape in value["shapes"]:
        click.echo()
        sizes = " ".join(str(size) for size in shape["sizes"]) or "alone"
        row = {**shape, "shape": _shape_text(shape["extents"]), "sizes": sizes, "reason": shape["reason"] or None}
        print_table([row], _SHAPE_COLUMNS, "no shapes")
        click.echo()
        _print_evidence(shape["evidence"])
    if value["decoder"] is not None:
        click.echo()
        print_facts(
            {
                "decodes_of_rows": " ".join(str(size) for size in value["decoder"]["sizes"]),
                "prefix_cache": value["decoder"]["prefix_cache"],
            }
        )
        click.echo()
        _print_evidence(value["decoder"]["evidence"])


def _print_evidence(rows: list[dict[str, Any]]) -> None:
    shown = [{**row, "max_difference": _difference_text(row["max_difference"])} for row in rows]
    print_table(shown, _EVIDENCE_COLUMNS, "no evidence")


def _difference_text(difference: float) -> str:
    return "no number" if difference < 0 else f"{difference:.2g}"


def _probed(
    entry: ModelEntry, threads: int, require: str, device: int, *, again: bool, show: Any
) -> dict[str, Any]:  # fmt: skip
    from rota.common.errors import ConfigError
    from rota.gpu_worker.__main__ import show_one_device

    show_one_device(device, require)
    try:
        from rota.gpu_worker.certificate_store import CertificateStore, conditions_of
        from rota.gpu_worker.certification import certificate_of
        from rota.gpu_worker.probe import load_uncertified
        from rota.gpu_worker.providers import choose
    except ImportError as error:
        raise ConfigError(f"probing needs ONNX Runtime ({error}): {install_command('gpu')}") from error

    choice = choose(require or "auto", require=require != "")
    models = entry.folder.parent.parent
    loaded = load_uncertified(entry, threads=threads, require=choice.require)
    if again:
        CertificateStore(models).path(entry.digest.hex(), conditions_of(loaded.facts)).unlink(missing_ok=True)
    certificate = certificate_of(
        entry, loaded.opened, loaded.facts, threads=threads, is_stopping=lambda: False, say=show
    )  # fmt: skip
    return _value(certificate, conditions_of(loaded.facts))


def _value(certificate: Certificate, conditions: Mapping[str, Any]) -> dict[str, Any]:
    from rota.gpu_worker.certificate import pairs_of

    settings = conditions["settings"]
    return {
        **pairs_of(certificate),
        "reason": certificate.reason or _INVARIANT[certificate.decoder is not None],
        "provider": conditions["provider"],
        "nodes": ", ".join(f"{name} {count}" for name, count in conditions["nodes"].items() if name != "digest"),
        "threads": settings["threads"],
        "graph_level": settings["graph_level"],
        "processor": conditions["processor"].get("name", ""),
        "gpu": conditions["gpu"].get("name", ""),
        "runtime": f"{conditions['package']} {conditions['runtime']}",
        "conditions": conditions,
    }


def _shape_text(extents: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{name} [n{''.join(f', {extent}' for extent in shape)}]" for name, shape in extents.items())
