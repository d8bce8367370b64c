"""`rota embed` and `rota classify`: vectors and labels of texts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.common_options import Connection, Whole, broker_options, json_option, option
from rota.cli.output import Progress, counted, print_json, print_table
from rota.cli.text_options import check_deployed, lane_and_wait_options, options_named, texts_of, where
from rota.cli.waiting import not_there_yet, noticed
from rota.common.errors import ConfigError

if TYPE_CHECKING:
    from rota.client.client import Client
    from rota.common.results import Result
    from rota.tensors.arrays import Array


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True)
@option("--truncate", is_flag=True, help="Cut texts that are too long for the model, instead of failing.")
@option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the vectors into this .npy file instead."
)
@lane_and_wait_options
@json_option
@broker_options
def embed(
    connection: Connection, model: str, texts: tuple[str, ...], truncate: bool, output: Path | None, lane: str,
    wait_timeout: float | None, json: bool,
) -> None:  # fmt: skip
    """Print the vectors of TEXTS by MODEL, one line per text; - stands for the lines of stdin.

    \b
    rota embed minilm "a cat" "a dog" --json
    rota embed minilm - --output vectors.npy < sentences.txt
    """
    from rota.common.text_requests import embed_payloads
    from rota.tensors.text_values import vectors_of

    payloads = embed_payloads(texts_of(texts), truncate)
    if output is not None:
        _check_writable(output)
    with connection.open() as client, options_named():
        results = _results(client, connection, model, payloads, lane, wait_timeout)
        vectors = vectors_of(results)
        if output is not None:
            _write(output, vectors)
        elif json:
            print_json({"vectors": vectors.tolist(), **_facts(results)})
        else:
            for vector in vectors:
                click.echo(" ".join(str(number) for number in vector))
    click.echo(f"{counted(len(vectors), 'vector')} of {vectors.shape[1]}{where(results[0].provenance)}", err=True)


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True)
@option("--top", type=Whole(1), default=1, help="How many labels of each text.")
@option("--truncate", is_flag=True, help="Cut texts that are too long for the model, instead of failing.")
@lane_and_wait_options
@json_option
@broker_options
def classify(
    connection: Connection, model: str, texts: tuple[str, ...], top: int, truncate: bool, lane: str,
    wait_timeout: float | None, json: bool,
) -> None:  # fmt: skip
    """Print the best labels of TEXTS by MODEL with their scores; - stands for the lines of stdin.

    \b
    rota classify mood "what a day" --top 3
    rota classify mood - --json < messages.txt
    """
    from rota.common.text_requests import classify_payloads
    from rota.tensors.text_values import labels_of

    wanted = texts_of(texts)
    payloads = classify_payloads(wanted, top, truncate)
    with connection.open() as client, options_named():
        results = _results(client, connection, model, payloads, lane, wait_timeout)
        labels = labels_of(results)
    if json:
        print_json({"labels": labels, **_facts(results)})
        return
    rows = [
        {"score": f"{score:.4f}", "label": label, "text": text}
        for text, pairs in zip(wanted, labels, strict=True)
        for label, score in pairs
    ]
    print_table(rows, ("score", "label", "text"), "no labels")
    click.echo(f"{counted(len(wanted), 'text')}{where(results[0].provenance)}", err=True)


def _results(
    client: Client, connection: Connection, model: str, payloads: Sequence[bytes], lane: str, wait_s: float | None
) -> list[Result]:
    """Submit the tasks and return their outcomes."""
    from rota.common.text_requests import model_target

    check_deployed(client, connection, model, lane)
    batch = client.submit_many(model_target(model), payloads, lane=lane)
    try:
        with noticed(connection, lane, Progress(False, "")):
            return batch.outcomes(math.inf if wait_s is None else wait_s)
    except TimeoutError:
        raise TimeoutError(not_there_yet(batch.seqs)) from None


def _facts(results: Sequence[Result]) -> dict[str, Any]:
    """Return what --json has beside the vectors or labels."""
    from rota.common.text_results import decode_text_result

    usages = [decode_text_result(one.payload or b"", one.tensors).usage for one in results]
    return {
        "seqs": [one.seq for one in results],
        "usage": {"prompt": sum(usage.prompt for usage in usages)},
        "provenance": results[0].provenance,
    }


def _check_writable(path: Path) -> None:
    """Raise `ConfigError` if no file can be written here, before the model works for it."""
    target = path if path.exists() else path.parent
    if not target.exists():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}; make it, or name another file")
    if not os.access(target, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {target} is not yours to write; name another file")


def _write(path: Path, vectors: Array) -> None:
    import numpy

    try:
        with path.open("wb") as file:
            numpy.save(file, vectors)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name another file", path=str(path)) from error
