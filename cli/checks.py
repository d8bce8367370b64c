"""The checks of `rota doctor`: one function each, which yields findings with their remedy.

Checks change nothing, except for a small file in the run folder that is written to measure the disk and then removed. A
check that cannot be made on this system yields nothing. A new check is a function here and a line in CHECKS.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from rota.broker.modules import programs
from rota.common.code_kinds import IS_BUNDLE, IS_MODULE, KINDS, content_file
from rota.common.errors import ConfigError, JournalError, RotaError, StorageFull
from rota.common.limits import LIVE_CALLS_DEFAULT
from rota.host.endpoints import SOCKET_PATH_BYTES_MAX, Endpoints, RunFolder, shut_path
from rota.host.install import install_command

if TYPE_CHECKING:
    from rota.cli.common_options import Connection
    from rota.client.client import Client

PYTHON_MIN: Final = (3, 11)
FREE_BYTES_ERROR: Final = 64 << 20  # a few commits from full
FREE_BYTES_WARNING: Final = 2 << 30
SHARED_BYTES_WARNING: Final = 64 << 20  # Docker's default, too small for large tensors
FSYNC_MS_WARNING: Final = 20.0  # a spinning disk; a good SSD takes less than 2
NETWORK_FILE_SYSTEMS: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "lustre")
MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
RISKY_VARIABLES: Final = {
    "PYTHONOPTIMIZE": "it removes the checks that Rota relies on: unset it",
    "PYTHONDEVMODE": "it turns on faulthandler, which can make a memory trap of an agent a crash: unset it for workers",
    "PYTHONFAULTHANDLER": "it can make a memory trap of an agent a crash: unset it for workers",
}
_FSYNC_ROUNDS: Final = 8

Level = Literal["ok", "note", "warning", "error"]


class Finding(NamedTuple):
    """The result of a check. `remedy` says what to do; empty if nothing."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def check_python(_: Connection) -> Iterator[Finding]:
    """Python's version and flags."""
    shown = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        yield Finding("python", "error", f"Python {shown} is too old", "install Python 3.11 or newer")
    elif sys.flags.optimize:
        yield Finding("python", "error", "Python runs with -O", "start it without -O and PYTHONOPTIMIZE")
    else:
        yield Finding("python", "ok", f"Python {shown}")
    for name, why in RISKY_VARIABLES.items():
        if os.environ.get(name):
            yield Finding("environment", "warning", f"{name} is set", why)


def check_packages(_connection: Connection) -> Iterator[Finding]:
    """Every required package; those of workers only if installed."""
    try:
        asked = metadata.requires("rota") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "error", "rota itself is not installed", "pip install . in its source folder")
        return
    for name, operator, wanted, extra in _requirements(asked):
        if extra not in ("", "cpu") or name.startswith("onnxruntime"):
            continue
        found = _version_of(name)
        if found is None and extra:
            yield Finding(name, "note", "not installed: this host cannot run CPU workers", install_command("cpu"))
        elif found is None:
            yield Finding(name, "error", "not installed", f"pip install '{name}{operator}{wanted}'")
        elif found != wanted if operator == "==" else _numbers(found) < _numbers(wanted):
            yield Finding(
                name,
                "error",
                f"version {found}, wanted is {operator}{wanted}",
                f"pip install '{name}{operator}{wanted}'",
            )
        else:
            yield Finding(name, "ok", found)


def check_onnxruntime(_connection: Connection) -> Iterator[Finding]:
    """Which package provides onnxruntime, and whether CUDA can be used."""
    from rota.gpu_worker.packages import installed_runtimes, package_conflict

    runtimes = installed_runtimes()
    if not runtimes:
        yield Finding("onnxruntime", "note", "not installed: this host cannot run models", install_command("gpu"))
        return
    if len(runtimes) > 1:
        problem, _, remedy = package_conflict().partition(": ")
        yield Finding("onnxruntime", "error", problem, remedy)
        return
    yield Finding("onnxruntime", "ok", " ".join(runtimes[0]))
    try:
        from rota.gpu_worker.providers import offered, why_not
    except ImportError as error:
        yield Finding(
            "onnxruntime", "error", f"cannot be imported: {error}", install_command("gpu", options="--force-reinstall ")
        )
        return
    reason = why_not("cuda")
    if reason:
        remedy = "nothing, unless this host has a GPU that you want to use"
        yield Finding("providers", "note", f"models run on the CPU: {reason}", remedy)
    else:
        yield Finding("providers", "ok", "models run on CUDA")
    for name in offered():
        if name != "cuda" and not (reason := why_not(name)):
            yield Finding(
                "providers", "ok", f"models run on {name} where a GPU worker is started with --require {name}"
            )
        elif name != "cuda":
            yield Finding(
                "providers", "note", f"{name} cannot be required: {reason}", "nothing, unless you want to use it"
            )


def check_guest_memory(_: Connection) -> Iterator[Finding]:
    """Whether a CPU worker started like this process gets memory for agents, and of which kind."""
    from rota.cpu_worker.host_limits import (
        WORKER_BYTES,
        check_guest_room,
        raise_limits,
        why_fewer_calls,
        why_growth_can_fail,
        why_no_pool,
    )

    raise_limits()  # as a worker does
    try:
        check_guest_room(WORKER_BYTES)
    except ConfigError as error:
        yield Finding("agents' memory", "error", *error.message.rsplit(": ", 1))
        return
    slow = why_growth_can_fail() or why_no_pool()
    if slow:
        message = f"{slow}: a fresh agent takes about three times as long"
        yield Finding("agents' memory", "warning", message, "ulimit -d unlimited -v unlimited; vm.overcommit_memory 0")
    elif fewer := why_fewer_calls(LIVE_CALLS_DEFAULT):
        message = f"{fewer}: others run again from their first message"
        yield Finding("agents' memory", "warning", message, "ulimit -v unlimited")
    else:
        yield Finding("agents' memory", "ok", "nothing here limits it")


def check_run_folder(connection: Connection) -> Iterator[Finding]:
    """The run folder's file system, its permissions, and the free space."""
    root = connection.run_folder().root
    existing = _nearest(root)
    if not os.access(existing, os.W_OK):
        yield Finding("run folder", "error", f"{existing} cannot be written", "name another with --dir or ROTA_DIR")
        return
    kind = _file_system(existing)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("run folder", "error", f"{root} is on {kind}: locks and fsync of the journal cannot be trusted",
                      "use a local disk: --dir or ROTA_DIR")  # fmt: skip
    elif kind in MEMORY_FILE_SYSTEMS:
        yield Finding("run folder", "warning", f"{root} is on {kind}: the journal is lost when the host goes down",
                      "use a disk: --dir or ROTA_DIR")  # fmt: skip
    else:
        yield Finding("run folder", "ok", f"{root}" + (f" on {kind}" if kind else ""))
    if root.is_dir() and root.stat().st_mode & 0o077:
        message = f"other users can enter {root}: they may read the payloads and use the sockets"
        yield Finding("run folder", "warning", message, f"chmod 700 {root}")
    free = shutil.disk_usage(existing).free
    shown = f"{free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_WARNING:
        yield Finding(
            "disk", "error" if free < FREE_BYTES_ERROR else "warning", shown, f"free some space on {existing}"
        )
    else:
        yield Finding("disk", "ok", shown)


def check_run_file(connection: Connection) -> Iterator[Finding]:
    """Whether header and WAL of the run file are intact. A starting broker reads the records."""
    path = connection.run_folder().journal
    if not path.exists():
        return
    try:
        try:
            _look_at_run_file(path)
        except JournalError:  # a broker that overwrites its WAL just now looks like damage: try once more
            _look_at_run_file(path)
    except JournalError as error:
        problem, _, remedy = error.message.partition(". ")
        yield Finding("run file", "error", problem, remedy)
    except (OSError, StorageFull) as error:
        yield Finding("run file", "error", f"{path} cannot be read: {error}", "run the doctor as the broker's user")
    else:
        yield Finding("run file", "ok", str(path))


def _look_at_run_file(path: Path) -> None:
    from rota.broker.run_file import RunFile

    with contextlib.closing(RunFile.open(path, read_only=True)) as run_file:
        run_file.extent()


def check_fsync(connection: Connection) -> Iterator[Finding]:
    """How long an fsync takes; every acknowledgement waits for one."""
    folder = _nearest(connection.run_folder().root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            took_ms = sorted(_fsync_ms(file.fileno()) for _ in range(_FSYNC_ROUNDS))[_FSYNC_ROUNDS // 2]
    except OSError as error:
        yield Finding("fsync", "error", f"{folder}: {error.strerror}", "name another folder with --dir or ROTA_DIR")
        return
    shown = f"{took_ms:.2f} ms per write"
    if took_ms > FSYNC_MS_WARNING:
        remedy = "submit in large batches (submit_many, --jsonl), or use a faster disk"
        yield Finding("fsync", "warning", f"{shown}: each acknowledgement waits for one", remedy)
    else:
        yield Finding("fsync", "ok", shown)


def check_shared_memory(_: Connection) -> Iterator[Finding]:
    """Room in /dev/shm, which is small in containers."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        shown = f"/dev/shm has {total / (1 << 20):.0f} MiB"
        if total <= SHARED_BYTES_WARNING:
            remedy = "in a container: --shm-size=1g. Only a run folder there, and libraries of GPU workers, need it"
            yield Finding("shared memory", "warning", shown, remedy)
        else:
            yield Finding("shared memory", "ok", shown)


def check_sockets(connection: Connection) -> Iterator[Finding]:
    """Whether the path of the sockets is short enough and their folder private."""
    try:
        endpoints = Endpoints.of(connection.folder, connection.bind)
    except ConfigError as error:
        yield Finding("sockets", "error", error.message, "see the message")
        return
    folder = RunFolder(connection.folder).sockets
    if shut_path(Path(endpoints.frontend.removeprefix("ipc://"))).exists():
        message = "the broker accepts no connections now: as many files and connections are open as its limit allows"
        yield Finding("sockets", "error", message, "end programs that are connected, or raise its limit (ulimit -Hn)")
    elif endpoints.frontend.startswith("ipc://") and str(folder) not in endpoints.frontend:
        message = (
            f"the path of {folder} is longer than {SOCKET_PATH_BYTES_MAX} bytes; sockets are in {endpoints.frontend}"
        )
        yield Finding("sockets", "note", message, "nothing; a shorter --dir keeps them together")
    else:
        yield Finding("sockets", "ok", endpoints.frontend)


def check_open_files(_: Connection) -> Iterator[Finding]:
    """How many files and sockets a process may have open."""
    from rota.host.open_files import LIMIT_WANTED, hard_limit, let_in

    limit = hard_limit()
    message = f"a broker may open {limit} files, and accepts no connections while {let_in(limit)} or more are open"
    if limit < LIMIT_WANTED:
        remedy = f"ulimit -Hn {LIMIT_WANTED} or more before it starts (LimitNOFILE=, --ulimit nofile=)"
        yield Finding("open files", "warning", f"{message}: a burst of them may still be too many", remedy)
    else:
        yield Finding("open files", "ok", message)


def check_broker(connection: Connection) -> Iterator[Finding]:
    """Whether a broker answers, and its state."""
    try:
        with connection.open() as client:
            status = client.status()
            gone = [one for lane in status["lanes"] for one in _gone_modules(client, connection, lane["lane"])]
    except (RotaError, TimeoutError) as error:
        yield Finding("broker", "note", f"none answers ({error})", f"`rota up --dir {connection.folder}` starts one")
        return
    yield Finding("broker", "ok", f"boot {status['boot']}, version {status['version']}")
    for name, lane, file in gone:
        message = f"{name} in lane {lane} is bound to {file}, which is not there: its tasks are refused"
        yield Finding("modules", "error", message, f"deploy it again: `rota deploy {name} FILE --lane {lane}`")
    if status["storage_full"]:
        yield Finding("journal", "error", f"cannot be written: {status['storage_full']}", "free some space on its disk")
    if status["divergences"]:
        message = f"{status['divergences']} divergences: a task gave two different results"
        yield Finding(
            "divergence", "error", message, "`rota events --topic divergence`, and compare `rota workers --json`"
        )
    if status["draining"]:
        yield Finding("broker", "note", "it drains and takes no tasks", "`rota drain --off`")
    if not status["workers"]:
        yield Finding("workers", "warning", "none: tasks wait", "start some: `rota cpu-worker`, `rota gpu-worker`")
    else:
        yield Finding("workers", "ok", str(len(status["workers"])))


def _gone_modules(client: Client, connection: Connection, lane: str) -> Iterator[tuple[str, str, Path]]:
    """Yield each name that is bound to code without a file, its lane and that file."""
    folder = connection.run_folder().modules
    for code in client.query("deploys", lane=lane):
        kind = KINDS[code["kind"]]
        files = [content_file(code["digest"], kind.content)]
        if kind.content == IS_BUNDLE:
            files += [content_file(program, IS_MODULE) for program in programs(folder, [code["digest"]])]
        for name in files if kind.is_kept else ():
            if not (folder / name).exists():
                yield code["name"], lane, folder / name


CHECKS: Final[tuple[Callable[[Connection], Iterator[Finding]], ...]] = (
    check_python, check_packages, check_onnxruntime, check_guest_memory, check_run_folder, check_run_file, check_fsync,
    check_shared_memory, check_sockets, check_open_files, check_broker,
)  # fmt: skip


def _requirements(asked: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, operator, version and extra of the plain requirements of a package."""
    for text in asked:
        requirement, _, marker = text.partition(";")
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(==|>=)\s*([0-9.]+)", requirement.strip())
        if match is not None:
            extra = re.search(r"""extra\s*==\s*['"]([a-z]+)['"]""", marker)
            yield match[1], match[2], match[3], "" if extra is None else extra[1]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nearest(path: Path) -> Path:
    """Return the path itself or the first folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path, or "" if unknown."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return ""
    found, found_parts = "", -1
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        # Spaces in mount points are octal escapes: proc_mounts(5).
        folder = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))
        if path.resolve().is_relative_to(folder) and len(folder.parts) >= found_parts:
            found, found_parts = kind, len(folder.parts)
    return found


def _fsync_ms(descriptor: int) -> float:
    os.write(descriptor, bytes(4096))
    started = time.perf_counter()
    os.fsync(descriptor)
    return (time.perf_counter() - started) * 1000
