"""Gets the certificate of a loaded model: from its file beside the model, or from a process that probes it (probe.py).

Whatever becomes of that process, the worker goes on: a model that crashes, hangs or exhausts memory there is class D,
with the reason. Such a certificate says something of this host at this time, so it is not kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from rota.common.errors import CodeError
from rota.gpu_worker.certificate import Certificate, decode, encode, unstable
from rota.gpu_worker.certificate_store import CertificateStore, conditions_of
from rota.gpu_worker.providers import OpenSession
from rota.gpu_worker.repository import ModelEntry

PROBE_SECONDS_MAX: Final = 1_800.0
PROBE_MODULE: Final = "rota.gpu_worker.probe"

_LOOK_SECONDS: Final = 0.05
_SAID_CHARS_MAX: Final = 300

logger = logging.getLogger(__name__)


def certificate_of(
    entry: ModelEntry,
    opened: OpenSession,
    facts: Mapping[str, Any],
    *,
    threads: int,
    is_stopping: Callable[[], bool],
    say: Callable[[str], None],
    seconds_max: float = PROBE_SECONDS_MAX,
    keep_in: Path | None = None,
) -> Certificate:
    """Return the certificate of a model for the session `opened`, probing the model if there is none on file.

    `facts` is its whole fingerprint (`session_facts`), `threads` the worker's setting. It can take minutes: `say` gets
    a text about the progress now and then, and the probes end soon after `is_stopping()` is true, with class D. Never
    raises: what cannot be probed is class D, with the reason. Callable in any thread. A new certificate is kept in the
    folder `keep_in`, where one is looked for as well; None: only in that of the models.
    """
    models = entry.folder.parent.parent
    digest, conditions = entry.digest.hex(), conditions_of(facts)
    store = CertificateStore(keep_in or models)
    found = CertificateStore(models).get(digest, conditions) or store.get(digest, conditions)
    if found is None:
        say("its bits are being probed")
        command = [sys.executable, "-m", PROBE_MODULE, str(models), digest, str(threads), opened.provider]
        try:
            text, stood = _probe(command, say, is_stopping, seconds_max)
            found, value = decode(text)
        except CodeError as error:
            return unstable(f"it could not be probed: {error.message}", facts["probe"])
        if value["conditions"] != conditions:
            return unstable(f"the process that probed it ran under other conditions: {_other(conditions, value)}")
        found = found._replace(empty_extents=stood)
        _keep(store, encode(found, digest, conditions))
    return found.compared(facts["probe"])


def _probe(
    command: list[str], say: Callable[[str], None], is_stopping: Callable[[], bool], seconds_max: float
) -> tuple[str, tuple[str, ...]]:
    """Return the JSON of the certificate, and the free extents that the model stands at 0.

    Raises `CodeError` if there is no certificate, the worker was told to stop, or it took longer than `seconds_max`.
    """
    ends_at = time.monotonic() + seconds_max
    probe = _Probe(command, say)
    ending = probe.wait(is_stopping, ends_at, seconds_max)
    if not (text := probe.text):
        raise CodeError(f"its process {ending}")
    tried, stood = probe.tried, probe.stood
    while probe.died_trying:
        say(f"the process {ending}, with {tried[-1]!r} at 0")
        probe = _Probe([*command, json.dumps(tried)], say)
        ending = probe.wait(is_stopping, ends_at, seconds_max)
        tried, stood = tried + probe.tried, stood + probe.stood
    return text, tuple(stood)


def _keep(store: CertificateStore, text: str) -> None:
    try:
        store.put(text)
    except OSError as error:
        logger.warning("the certificate cannot be kept, so the model will be probed again: %s", error)


def _other(conditions: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    theirs = value["conditions"]
    return ", ".join(sorted(key for key in {**conditions, **theirs} if conditions.get(key) != theirs.get(key)))


class _Probe:
    """A running process of probe.py."""

    def __init__(self, command: list[str], say: Callable[[str], None]) -> None:
        """Raises `CodeError` if it cannot be started."""
        self._say = say
        self.text = ""  # of the certificate
        self.tried: list[str] = []  # free extents that were set to 0, and those of them after which it was still there
        self.stood: list[str] = []
        self.died_trying = False
        self._said = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - `_end` closes it
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, **_own_group()
            )
        except OSError as error:
            self._said.close()
            raise CodeError(f"its process cannot be started: {error}") from None
        self._reader = threading.Thread(target=self._read, name="rota-probe-reader", daemon=True)
        self._reader.start()

    def wait(self, is_stopping: Callable[[], bool], ends_at: float, seconds_max: float) -> str:
        """Wait for the end of the process and return it in words; leave no process behind.

        Raises `CodeError` if the worker was told to stop, or the time is up.
        """
        try:
            while self._reader.is_alive():
                self._reader.join(_LOOK_SECONDS)
                if is_stopping():
                    raise CodeError("the worker was told to stop")
                if time.monotonic() > ends_at:
                    raise CodeError(
                        f"the probes took longer than {seconds_max:g} s; fewer [[shapes]] or a smaller rows_max in "
                        "model.toml make them shorter"
                    )
            code = self._process.wait()
            self.died_trying = code != 0 and self.tried[-1:] != self.stood[-1:]
            return f"{_ending(code)}{self._last_words()}"
        finally:
            self._end()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                match report:
                    case {"say": text}:
                        self._say(text)
                    case {"trying": label}:
                        self.tried.append(label)
                    case {"stood": label}:
                        self.stood.append(label)
                    case {"certificate": text}:
                        self.text = text

    def _end(self) -> None:
        process = self._process
        process.kill()
        process.wait()
        self._reader.join()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._said.close()

    def _last_words(self) -> str:
        return _last_line(self._said)


def _own_group() -> dict[str, Any]:
    """Start it outside the terminal's process group: Ctrl-C reaches only us, and we end it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, 2)
    file.seek(max(0, size - 4096))
    lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()[:_SAID_CHARS_MAX]}" if lines else ""
