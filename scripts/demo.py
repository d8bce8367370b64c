"""Sort real files by type: agents on CPU workers ask a model on GPU workers, and the digest is always the same.

    python3 scripts/demo.py                                    a few hundred files of this Python's library
    python3 scripts/demo.py --cpu-workers 4 --kill-workers     the same digest
    python3 scripts/demo.py ~/Downloads                        other files
    python3 scripts/demo.py agents                             another one: agents that talk with a language model

The tasks: file -> features/<n> -> model:magika -> features/<n> -> tally/<type> -> reporter/main, see examples/agents/.
The lane is opened paused, every file is submitted, then the lane is released: so each task's position is pinned, and
the digest is a function of the files, the agents and the model. At the end everything is executed again from the
journal and compared, as by `rota verify`. The first run makes `.venv` and fetches the model. Exit code 0: every task
succeeded, the table has every file, and the repetition is equal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _demo_files import Sample, Samples, read_samples
from _demo_letters import LETTERS
from _demo_screen import Step, bar, size_text
from _environment import REPOSITORY, ensure_environment

if TYPE_CHECKING:
    from _demo_processes import Killer, Up

    from rota.client import Client
    from rota.host.endpoints import RunFolder

AGENTS = REPOSITORY / "examples" / "agents"
LANE = "demo"
# Agents see both, so both are pinned: how many agents share the files, and the time at which files arrive.
FEATURES_AGENTS = 8
NOW_MS = 1_700_000_000_000
# Long, because a task may be slow on a busy machine, and a timeout would be another outcome.
TASK_TIMEOUT_MS = 300_000
FILES_MAX = 10_000  # with the broker's defaults, all results are still kept at the end
POLL_SECONDS = 0.01
STUCK_SECONDS = 120.0
KILLS_MAX = 6
FAILURES_SHOWN = 5
INTERRUPTED = 130
_VERDICTS = {"equal": "every turn came out the same again, bit for bit, from the journal alone"}


class Run(NamedTuple):
    """The result of the run. `reasons`: why GPU workers do not use CUDA. `processor`: None if not known.

    `verdict`: of executing it again, "equal" or why not.
    """

    tasks: int
    seconds: float
    processor: dict[str, float] | None
    killed: int
    reasons: list[str]
    table: dict[str, list[int]]
    digest: str
    verdict: str
    failures: list[dict[str, Any]]
    providers: Counter[str]


def main() -> int:
    with_agents = sys.argv[1:2] == ["agents"]
    options = _agents_options(sys.argv[2:]) if with_agents else _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        ensure_environment(["cpu", "gpu", *(["models"] if with_agents else [])])
        if with_agents:
            import _demo_agents

            return _demo_agents.run(options)
        return _demo(options)
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed the pipe; without this, Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="`demo.py agents` is another demo: agents that talk with a language model; see `demo.py agents --help`.",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", nargs="?", type=_folder, help="whose files to sort; else this Python's library")
    add("--cpu-workers", type=_count(1, 64), default=2, metavar="N", help="processes that run agents (default: 2)")
    add("--gpu-workers", type=_count(1, 64), default=1, metavar="M", help="processes that run the model (default: 1)")
    add("--files", type=_count(1, FILES_MAX), default=300, metavar="N", help="how many files (default: 300)")
    add("--kill-workers", action="store_true", help="kill -9 workers at random moments meanwhile")
    add("--keep", type=Path, metavar="DIR", help="run in this new folder and keep it: journal, logs, models")
    return parser.parse_args()


def _agents_options(arguments: list[str]) -> argparse.Namespace:
    text = "The mail room of a shop: agents that plan, ask a language model, criticise and decide."
    parser = argparse.ArgumentParser(prog="demo.py agents", description=text)
    add = parser.add_argument
    add("--cpu-workers", type=_count(1, 64), default=2, metavar="N", help="processes that run agents (default: 2)")
    add("--gpu-workers", type=_count(1, 64), default=1, metavar="M", help="processes that run the model (default: 1)")
    add("--letters", type=_count(1, len(LETTERS)), default=len(LETTERS), metavar="N", help="how many messages")
    add("--form", choices=["fp32", "q4"], default="fp32", help="the form of the model's weights (default: fp32)")
    add("--model", type=_model, metavar="FOLDER", help="another model folder")
    add("--keep", type=Path, metavar="DIR", help="run in this new folder and keep it: journal, logs, models")
    return parser.parse_args(arguments)


def _folder(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a folder nor `agents`, the name of the other demo")
    return Path(text)


def _model(text: str) -> Path:
    if not os.path.isfile(os.path.join(text, "model.onnx")):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder with a model.onnx")
    return Path(text)


def _count(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return parse


def _demo(options: argparse.Namespace) -> int:
    from _demo_processes import StartError, started

    from rota.common.errors import RotaError
    from rota.model_builds.catalog import cached

    folder = options.folder or Path(sysconfig.get_path("stdlib"))
    try:
        with Step("model") as step:
            step.remark("taking magika out of its wheel, the first time from the package index")
            magika = cached("magika", None, REPOSITORY / ".cache" / "magika", step.show)
            step.show("magika, out of its wheel in .cache/magika")
    except RotaError as error:
        print(f"demo: {error.message}", file=sys.stderr)
        return 1
    with Step("files") as step:
        chosen = read_samples(folder, options.files)
        read = sum(len(sample.head) + len(sample.tail or b"") for sample in chosen.samples)
        step.show(f"{len(chosen.samples)} of {chosen.found} in {folder}, {size_text(read)} read")
        for line in chosen.skipped[:FAILURES_SHOWN]:
            step.remark(f"not read: {line}")
    if not chosen.samples:
        print(f"demo: {folder} has no files that can be read", file=sys.stderr)
        return 1
    try:
        with started(options.cpu_workers, options.gpu_workers, options.keep) as (up, run_folder):
            run = _sort(options, up, run_folder, magika, chosen)
    except (StartError, RotaError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return _tell(options, chosen, run)


# --- the run --------------------------------------------------------------------------------------


def _sort(options: argparse.Namespace, up: Up, run_folder: RunFolder, magika: Path, chosen: Samples) -> Run:
    from _demo_processes import KILLS_MAX_PER_POOL, Killer, seconds_between

    from rota.client import Client

    tasks = _count_tasks(chosen.samples)
    kills = min(KILLS_MAX, 2 * KILLS_MAX_PER_POOL, 2 + len(chosen.samples) // 50) if options.kill_workers else 0
    with Client(run_folder.root) as client:
        with Step("deploy") as step:
            _deploy(client, run_folder, magika)
            step.show("features, tally and reporter (WebAssembly), model:magika (ONNX)")
        reasons = {worker["fingerprint"].get("reason", "") for worker in client.query("workers")}
        with Step("submit") as step:
            _submit(client, chosen.samples)
            step.show(f"{len(chosen.samples)} files into the paused lane {LANE!r}")
            step.remark(f"they will come to {tasks} tasks: {_tasks_text(chosen.samples)}")
        killer = Killer(tasks, kills)
        with Step("run") as step:
            used = up.processor_seconds()
            client.release(LANE)
            retired = _watch(client, up, killer, step, tasks)
            # The processor time of a killed worker is not known.
            used = None if killer.killed else seconds_between(used, up.processor_seconds())
        if kills:
            print(f"killed      {len(killer.killed)} workers with SIGKILL; `rota up` started them again")
        table, digest, failures, providers = _report(client)
    verdict = _verify(run_folder, digest, retired + 1)
    killed = len(killer.killed)
    return Run(retired, step.seconds, used, killed, sorted(reasons - {""}), table, digest, verdict, failures, providers)


def _count_tasks(samples: list[Sample]) -> int:
    return sum(5 if sample.asks_the_model else 3 for sample in samples)


def _tasks_text(samples: list[Sample]) -> str:
    """Return how many tasks each file becomes."""
    asked = sum(sample.asks_the_model for sample in samples)
    return f"3 for each file (features, tally, reporter), 2 more for {asked} of them (the model and its reply)"


def _deploy(client: Client, run_folder: RunFolder, magika: Path) -> None:
    """Open the lane and deploy the agents and the model in it; a worker checks each first."""
    from rota.client import Limits
    from rota.gpu_worker.repository import Repository

    limits = Limits(timeout_ms=TASK_TIMEOUT_MS)
    client.open_lane(LANE, paused=True, deploys_from=None)
    for name in ("features", "tally", "reporter"):
        client.deploy(name, AGENTS / f"{name}.wasm", lane=LANE, code_limits=limits)
    entry = Repository(run_folder.models).add(magika, "magika")
    client.deploy_model("magika", entry.digest, lane=LANE, code_limits=limits)


def _submit(client: Client, samples: list[Sample]) -> None:
    targets = [f"features/{place % FEATURES_AGENTS}" for place in range(len(samples))]
    payloads = [list(sample) for sample in samples]
    client.submit_many(targets, payloads, lane=LANE, wait=False, now_ms=NOW_MS)


def _watch(client: Client, up: Up, killer: Killer, step: Step, tasks: int) -> int:
    """Show the lane's progress until it has nothing left to do; let `killer` kill workers meanwhile."""
    started = moved = time.perf_counter()
    retired = 0
    while True:
        lane, before, now = _lane_numbers(client), retired, time.perf_counter()
        retired = int(lane["retired"])
        rate = retired / (now - started)
        if not lane["waiting"] and not lane["line"]:
            break
        moved = now if retired > before else moved
        if now - moved > STUCK_SECONDS:
            raise TimeoutError(f"no task has retired for {STUCK_SECONDS:.0f} s, after {retired}")
        step.show(f"{bar(retired, tasks)} {retired} of {tasks} tasks, {rate:.0f} per second")
        if (name := killer.strike(client, retired)) is not None:
            step.remark(f"kill -9 {name}, after {retired} tasks")
        up.check_running()
        time.sleep(POLL_SECONDS)
    step.show(f"{bar(retired, retired)} {retired} tasks, {rate:.0f} per second")
    return retired


def _lane_numbers(client: Client) -> dict[str, Any]:
    return next(lane for lane in client.query("lanes") if lane["lane"] == LANE)


def _report(client: Client) -> tuple[dict[str, list[int]], str, list[dict[str, Any]], Counter[str]]:
    """Ask the reporter for its table. The lane is idle, so the position of this task is pinned too."""
    with Step("report") as step:
        report = client.submit("reporter/main", b"report", lane=LANE, now_ms=NOW_MS)
        table = report.result(STUCK_SECONDS).value
        client.wait_idle(LANE)
        provenances = [result.provenance for result in client.results(1, report.seq)]
        step.show(f"{len(table)} types")
    digest = client.digest(LANE)["digest"].hex()
    failures = client.query("dead", lane=LANE, limit=FILES_MAX)
    return table, digest, failures, Counter(one.provider for one in provenances if one is not None)


def _verify(run_folder: RunFolder, digest: str, tasks: int) -> str:
    """Execute everything again as `rota verify` does, beside the running broker."""
    from rota.proof.verification import IN_PROCESS, prove
    from rota.proof.verify import VerifyOptions
    from rota.runs.open import open_run

    with Step("verify") as step, open_run(run_folder.root) as source:
        proof = prove(
            source, [IN_PROCESS], VerifyOptions(LANE),
            progress=lambda _, turns, __: step.show(f"{bar(turns, tasks)} {turns} of {tasks} tasks again"),
        )  # fmt: skip
        (lane,) = proof.last.lanes
        read_back = f", {lane.counts.models_read_back} results of the model read back" * bool(
            lane.counts.models_read_back
        )
        step.show(f"{lane.counts.executed} tasks executed again{read_back}: {proof.verdict}")
        step.remark(f"these are the {tasks - 1} tasks of the run and the one that asked for the report")
    return proof.verdict if lane.digest.hex() == digest else "another digest"


# --- the result -----------------------------------------------------------------------------------


def _tell(options: argparse.Namespace, chosen: Samples, run: Run) -> int:
    """Print the result and return the exit code."""
    print(f"\n{'type':<16} {'files':>7} {'bytes':>14}")
    for label, (files, size) in sorted(run.table.items(), key=lambda row: (-row[1][0], row[0])):
        print(f"{label:<16} {files:>7,} {size:>14,}")
    files = sum(files for files, _ in run.table.values())
    print(f"{'all':<16} {files:>7,} {sum(size for _, size in run.table.values()):>14,}\n")
    print(f"tasks      {run.tasks} in {run.seconds:.2f} s: {run.tasks / run.seconds:.0f} tasks per second")
    if run.processor is not None:
        names = {"broker": "broker", "cpu_worker": "CPU workers", "gpu_worker": "GPU workers"}
        used = ", ".join(f"{names[kind]} {seconds:.2f} s" for kind, seconds in run.processor.items())
        print(f"           of which on a processor: {used}")
    _tell_providers(run)
    print(f"digest     {run.digest}")
    print(f"verified   {_VERDICTS.get(run.verdict, run.verdict)}\n")
    if run.verdict != "equal":
        print("FAILED     run it again with --keep DIR, then: rota verify DIR")
        return 1
    if run.failures or files != len(chosen.samples):
        _tell_failures(chosen, run, files)
        return 1
    _tell_meaning(options, run)
    return 0


def _tell_providers(run: Run) -> None:
    names = {"cuda": "the GPU (CUDA)", "cpu": "the CPU"}
    where = ", ".join(f"{count} times on {names.get(name, name)}" for name, count in sorted(run.providers.items()))
    print(f"model      ran {where or 'never'}")
    for reason in run.reasons:
        print(f"           {reason}: models run on the CPU")
    if len(run.providers) > 1:
        print("           GPU and CPU give other bits: the digest of such a mixed run will not come again")


def _tell_failures(chosen: Samples, run: Run, files: int) -> None:
    for dead in run.failures[:FAILURES_SHOWN]:
        print(
            f"FAILED     task {dead['seq']} to {dead['target']}, after {dead['attempts']} attempts: "
            f"{dead['kind']}: {dead['message']}"
        )
    if len(run.failures) > FAILURES_SHOWN:
        print(f"FAILED     and {len(run.failures) - FAILURES_SHOWN} more")
    if files != len(chosen.samples):
        print(f"FAILED     the table holds {files} files, {len(chosen.samples)} were submitted")


def _tell_meaning(options: argparse.Namespace, run: Run) -> None:
    killed = f"; {run.killed} were killed in the middle of it" if run.killed else ""
    more = 4 if options.cpu_workers != 4 else 1
    place = "" if options.folder is None else f" {options.folder}"
    count = "" if options.files == 300 else f" --files {options.files}"
    workers = options.cpu_workers + options.gpu_workers
    print(
        f"{workers} worker processes did this work, in an order that differs from run to "
        f"run{killed}.\nEvery task retired in the order of its number, and the digest covers each one's content, code, "
        "result, new\nstate and emitted tasks: equal digests mean that the same happened, bit for bit. Try to change "
        "it:\n\n"
        f"    python3 scripts/demo.py --cpu-workers {more}{count}{place}\n"
        f"    python3 scripts/demo.py --kill-workers{count}{place}\n"
    )
    if options.keep is not None:
        print(f"The run file and the logs are in {options.keep}. Once more: rota verify {options.keep}")


if __name__ == "__main__":
    sys.exit(main())
