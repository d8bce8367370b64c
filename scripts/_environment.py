"""The virtual environment of all scripts: `.venv` beside this folder. Standard library only.

A script parses its arguments first, so that `--help` needs nothing installed, then calls `ensure_environment`, then
imports the rest. `.venv/rota-stamp.json` says for which pyproject.toml, Python and extras the environment was made; if
that has changed, it is updated. This file must parse on Python 3.7, to tell users of an old one what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterable, NoReturn  # noqa: UP035 - read by old Pythons too

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = REPOSITORY / ".venv"
PYTHON_MIN = (3, 11)
_STAMP = ENVIRONMENT / "rota-stamp.json"
_LOG = ENVIRONMENT / "setup.log"
_LOG_LINES_SHOWN = 25
_PROGRESS_SECONDS = 5
_STEP_CHARS_SHOWN = 90


def ensure_environment(extras: Iterable[str]) -> Path:
    """Make `.venv` hold Rota with these extras, and run the calling script in it.

    Returns the path of its Python if that is running already. Otherwise it does not return: the script starts again
    inside the environment, with the same arguments.
    """
    if sys.version_info[:2] < PYTHON_MIN:
        _stop(
            f"Rota needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer; this is {_version()} at {sys.executable}. "
            f"Start the script with a newer one, for example: python3.12 {sys.argv[0]}"
        )
    wanted = _expand(set(extras))
    if not _is_up_to_date(wanted):
        _set_up(wanted)
    if Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        _start_again()
    return environment_python()


def environment_python() -> Path:
    """Return the path of the environment's Python."""
    return ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _version() -> str:
    return "{}.{}.{}".format(*sys.version_info[:3])


def _expand(extras: set[str]) -> set[str]:
    """Add the extras that these include: `dev` includes `cpu`, so it also satisfies a need for `cpu`."""
    import tomllib  # not at the top: Python 3.10 does not have it, and must reach the error message

    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    unknown = sorted(extras - set(table))
    assert not unknown, f"pyproject.toml has no extras {unknown}"
    waiting, found = sorted(extras), set[str]()
    while waiting:
        extra = waiting.pop()
        if extra not in found:
            found.add(extra)
            for requirement in table[extra]:
                match = re.fullmatch(r"rota\[([^]]+)\]", requirement)
                waiting += [name.strip() for name in match.group(1).split(",")] if match else []
    return found


def _key() -> str:
    hasher = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes())
    hasher.update(repr((_version_of_environment() or _version(), str(REPOSITORY))).encode())
    return hasher.hexdigest()


def _version_of_environment() -> str | None:
    """Return the Python version that `.venv` was made with, or None if there is no usable one."""
    try:
        lines = (ENVIRONMENT / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    if not environment_python().exists():  # also if the Python that it links to was removed
        return None
    return settings.get("version") or settings.get("version_info", "")


def _installed() -> dict[str, object]:
    try:
        stamp = json.loads(_STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _is_up_to_date(wanted: set[str]) -> bool:
    stamp = _installed()
    extras = stamp.get("extras")
    return stamp.get("key") == _key() and isinstance(extras, list) and wanted <= set(extras)


def _set_up(wanted: set[str]) -> None:
    started = time.monotonic()
    found = _version_of_environment()
    if found is None or not _is_new_enough(found):
        _say(f"making {ENVIRONMENT.name} with Python {_version()}")
        _make_environment()
    stamp = _installed()
    before = stamp.get("extras") if stamp.get("key") == _key() else None
    extras = sorted(wanted | set(before if isinstance(before, list) else ()))
    _STAMP.unlink(missing_ok=True)  # without a stamp the environment counts as incomplete
    suffix = f"[{','.join(extras)}]" if extras else ""  # pip refuses empty brackets
    _say(f"installing rota{suffix} and what it needs; the first time takes one to three minutes")
    _run_pip(["install", "--editable", f"{REPOSITORY}{suffix}"])
    _STAMP.write_text(json.dumps({"key": _key(), "extras": extras}) + "\n", encoding="utf-8")
    _say(f"ready in {time.monotonic() - started:.0f} s")


def _is_new_enough(version: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= PYTHON_MIN


def _make_environment() -> None:
    """Make an empty environment, without pip if this Python has no ensurepip (Debian packages it separately)."""
    ENVIRONMENT.mkdir(exist_ok=True)
    make = [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)]
    if subprocess.run(make, capture_output=True, text=True, check=False).returncode == 0:
        return
    ENVIRONMENT.mkdir(exist_ok=True)
    made = subprocess.run([*make, "--without-pip"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _stop(
            "this Python cannot make a virtual environment. Install its venv module "
            "(on Debian: apt install python3-venv) and try again.\n"
            f"The command was: {' '.join(make)}\n{made.stdout}{made.stderr}"
        )


def _run_pip(arguments: list[str]) -> None:
    """Run the environment's pip, or this Python's pip for it, and show its progress in one line."""
    python = str(environment_python())
    command = [python, "-m", "pip"]
    if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode != 0:
        command = [sys.executable, "-m", "pip", "--python", python]
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode != 0:
            _stop(
                "there is no pip, neither in the environment nor in this Python. "
                "Install it (on Debian: apt install python3-venv python3-pip), remove .venv, and try again."
            )
    command += ["--disable-pip-version-check", "--no-input", *arguments]
    with _LOG.open("w", encoding="utf-8") as log:
        pip = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
        )
        with pip:
            assert pip.stdout is not None
            with _Progress() as progress:
                for line in pip.stdout:
                    log.write(line)
                    progress.show(line)
        status = pip.returncode
    if status != 0:
        tail = _LOG.read_text(encoding="utf-8").splitlines()[-_LOG_LINES_SHOWN:]
        _stop(
            "\n".join(tail) + f"\n\nsetup: pip failed (exit code {status}). The command was:\n  {' '.join(command)}\n"
            f"All that it said is in {_LOG}. Is the package index reachable?"
        )


class _Progress:
    """Shows pip's progress: its current line, in place on a terminal, elsewhere every few seconds.

    Pip prints nothing while it unpacks, which takes longest; its last line is then repeated, at twice the time each.
    """

    _STEPS = ("Collecting ", "Downloading ", "Building ", "Preparing ", "Installing ")

    def __init__(self, live: bool | None = None, every_s: float = _PROGRESS_SECONDS) -> None:
        self._live = sys.stderr.isatty() if live is None else live
        self._every_s = every_s
        self._step = "starting pip"
        self._said, self._due_s = "", 0.0
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> _Progress:
        if not self._live:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live:
            self.show("")
        else:
            self._thread.join()

    def show(self, line: str) -> None:
        """Show pip's next line."""
        text = line.strip()
        if text.startswith(self._STEPS):
            self._step = text
        if self._live:
            width = max(20, shutil.get_terminal_size().columns - 1)
            sys.stderr.write("\r" + text[:width].ljust(width) + ("" if line else "\r"))
            sys.stderr.flush()

    def line(self, passed_s: float) -> str | None:
        """Return the line for this moment, or None if there is nothing new to say."""
        if self._step == self._said and passed_s < self._due_s:
            return None
        self._said, self._due_s = self._step, 2 * passed_s
        return f"{passed_s:3.0f} s: {self._step[:_STEP_CHARS_SHOWN]}"

    def _tell(self) -> None:
        while not self._ended.wait(self._every_s):
            line = self.line(time.monotonic() - self._started)
            if line is not None:
                _say(line)


def _start_again() -> NoReturn:
    # orig_argv has the interpreter options, such as -X and -W, which sys.argv lacks.
    command = [str(environment_python()), *sys.orig_argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # exec on Windows returns to the shell before the new process has ended
        sys.exit(subprocess.run(command, check=False).returncode)
    os.execv(command[0], command)


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def _stop(text: str) -> NoReturn:
    sys.exit(text if text.startswith("setup:") else f"setup: {text}")
