"""The sub-folders of a run folder, and the four addresses of its broker.

Default addresses are `ipc://` sockets in a folder that only its owner can enter. On Windows, or with `--bind
tcp://127.0.0.1:PORT`, the broker writes its ports into `endpoints.json`, where the other processes read them. Only
loopback addresses are allowed until connections are encrypted. A new address must be added to `Endpoints`, `_NAMES` and
docs/PROTOCOL.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.common.errors import ConfigError
from rota.common.shown import shown
from rota.host.files import PRIVATE_FOLDER_MODE, make_private, private_opener

# The address of a socket file must fit `sun_path` with its closing zero: 108 bytes on Linux (unix(7)), 104 on macOS.
SOCKET_PATH_BYTES_MAX: Final = 107 if sys.platform == "linux" else 103
PORTS: Final = 4
CONVERSATIONS: Final = "conversations.sqlite"  # the store of a run folder, beside its tensors

_NAMES: Final = ("frontend", "backend", "events", "query")
_TCP: Final = re.compile(r"tcp://([^/:]{1,255}|\[[^\]/]{1,255}\]):([0-9]{1,5})")
_SHOWN_CHARS: Final = 200


class Endpoints(NamedTuple):
    """The addresses of a broker: for producers, workers, watchers, and read-only queries."""

    frontend: str
    backend: str
    events: str
    query: str

    @staticmethod
    def of(run_dir: Path, bind: str | None = None) -> Endpoints:
        """Return the addresses of the broker of a run folder.

        Raises `ConfigError` for an address that is not allowed, and on Windows if no broker has started there yet.
        """
        if bind:
            return _tcp_endpoints(bind)
        folder = RunFolder(run_dir)
        if folder.endpoints_file.exists():
            return _read(folder.endpoints_file)
        if sys.platform == "win32":
            raise ConfigError(f"no broker has started in {folder.root}: start one, or set ROTA_BIND", dir=str(run_dir))
        return _ipc_endpoints(folder)

    @staticmethod
    def publish(run_dir: Path, bind: str | None = None) -> Endpoints:
        """Choose the addresses that this broker binds, and publish them to other processes.

        Call it after the run folder is prepared and its journal locked; bind next.
        """
        folder = RunFolder(run_dir)
        if not bind and sys.platform != "win32":
            _remove(folder.endpoints_file)  # of an earlier start with other addresses
            _socket_folder(folder).mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
            endpoints = _ipc_endpoints(folder)
            for endpoint in endpoints:  # a broker was killed while its door was shut
                shut_path(Path(endpoint.removeprefix("ipc://"))).unlink(missing_ok=True)
            return endpoints
        endpoints = _tcp_endpoints(bind) if bind else Endpoints(*_free_addresses())
        unfinished = folder.endpoints_file.with_suffix(".new")
        with open(unfinished, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(json.dumps(endpoints._asdict()) + "\n")
        os.replace(unfinished, folder.endpoints_file)
        return endpoints

    @staticmethod
    def withdraw(run_dir: Path) -> None:
        """Remove this broker's socket files, which libzmq leaves behind, and a folder outside of the run folder.

        Call it after closing the sockets and before releasing the journal's lock.
        """
        folder = RunFolder(run_dir)
        sockets = _socket_folder(folder)
        for name in _NAMES:
            for file in (sockets / f"{name}.sock", shut_path(sockets / f"{name}.sock")):
                file.unlink(missing_ok=True)
        if sockets != folder.sockets:
            with contextlib.suppress(OSError):  # missing, or not empty
                sockets.rmdir()


def shut_path(socket_file: Path) -> Path:
    """Return where a socket file is moved while the door is shut (open_files.py)."""
    return socket_file.with_name(f"{socket_file.name}.full")


class RunFolder:
    """The folder of one run, and the paths in it."""

    def __init__(self, run_dir: Path) -> None:
        self.root = Path(os.path.abspath(run_dir))
        self.journal = self.root / "run.rota"
        self.modules = self.root / "modules"
        self.artefacts = self.root / "artefacts"
        self.models = self.root / "models"
        self.tensors = self.root / "tensors"
        self.conversations = self.root / CONVERSATIONS
        self.logs = self.root / "logs"
        self.sockets = self.root / "sockets"
        self.endpoints_file = self.root / "endpoints.json"

    def prepare(self) -> RunFolder:
        """Make the folder and its parts if missing, and make the parts accessible to their owner only.

        An existing root keeps its mode, since it may be used for other things too.
        """
        parts = (self.modules, self.artefacts, self.models, self.tensors, self.logs, self.sockets)
        try:
            self.root.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
            for part in parts:
                part.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
                if part != self.sockets:  # if others can enter it, connecting fails: see _check_private
                    make_private(part)
        except OSError as error:
            in_the_way = isinstance(error, FileExistsError)
            why = f"{error.filename} is there and is no folder" if in_the_way else f"{error.filename}: {error.strerror}"
            remedy = "remove it, or name another folder" if in_the_way else "name another"
            raise ConfigError(
                f"the run folder {self.root} cannot be made: {why}; {remedy} with --dir or ROTA_DIR", dir=str(self.root)
            ) from error
        return self


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed: {error.strerror}; remove it", path=str(path)) from error


# --- socket files ---------------------------------------------------------------------------------


def _ipc_endpoints(folder: RunFolder) -> Endpoints:
    sockets = _socket_folder(folder)
    _check_private(sockets)
    return Endpoints(*(f"ipc://{sockets / name}.sock" for name in _NAMES))


def _socket_folder(folder: RunFolder) -> Path:
    if max(len(os.fsencode(folder.sockets / f"{name}.sock")) for name in _NAMES) > SOCKET_PATH_BYTES_MAX:
        return _short_folder(folder.root)
    return folder.sockets


def _short_folder(root: Path) -> Path:
    """Return a folder with a short path for the sockets, if the run folder's path is too long."""
    digest = hashlib.sha256(os.fsencode(root) + b"\0" + str(_user()).encode()).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"rota-{digest}"


def _check_private(folder: Path) -> None:
    """Refuse a folder of sockets that another user owns or can enter: that user could pose as the broker."""
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return  # no broker has started yet; the connection waits for one
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != _user() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"{folder} must be a folder of yours with mode 0700: run `chmod 700 {folder}` or remove it",
            folder=str(folder),
        )


if sys.platform == "win32":

    def _user() -> int:
        raise AssertionError("no socket files there")

else:

    def _user() -> int:
        return os.getuid()


# --- ports of the loopback ------------------------------------------------------------------------


def _tcp_endpoints(bind: str) -> Endpoints:
    """Return the addresses of `PORTS` consecutive ports from the one in `bind` on."""
    host, port = _check_loopback(bind)
    if port + PORTS - 1 > 65_535 or port == 0:
        raise ConfigError(f"--bind {bind}: the port must be from 1 to {65_536 - PORTS}; {PORTS} in a row are used")
    return Endpoints(*(f"tcp://{host}:{port + offset}" for offset in range(PORTS)))


def _check_loopback(address: str) -> tuple[str, int]:
    """Return host and port of a loopback address; any address in 127.0.0.0/8 is one."""
    match = _TCP.fullmatch(address)
    if match is None:
        raise ConfigError(
            f"{shown(address)} is not an address: use tcp://127.0.0.1:PORT (--bind, ROTA_BIND)",
            address=address[:_SHOWN_CHARS],
        )
    host, port = match[1], int(match[2])
    if host == "localhost":
        host = "127.0.0.1"  # elsewhere the name may resolve to IPv6
    if not _is_loopback(host):
        raise ConfigError(
            f"{address} can be reached from other hosts, which needs CURVE encryption; that is not yet available: "
            "use tcp://127.0.0.1:PORT (--bind, ROTA_BIND)",
            address=address,
        )
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False  # a name, which may resolve to any host, or IPv6, which our sockets do not use


def _free_addresses() -> list[str]:
    """Return addresses whose ports are free now. If one is taken before it is bound, the bind fails."""
    held = [socket.socket() for _ in _NAMES]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in held]
    finally:
        for one in held:
            one.close()


def _read(path: Path) -> Endpoints:
    if not path.is_file():  # to open a pipe blocks
        raise ConfigError(f"{path} is no file: remove it and restart the broker", path=str(path))
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        endpoints = Endpoints(**value)
        addresses = [address for address in endpoints if isinstance(address, str)]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({str(error)[:200]}): remove it and restart the broker", path=str(path)
        ) from error
    if len(addresses) != PORTS:
        raise ConfigError(f"{path} is damaged: remove it and restart the broker", path=str(path))
    for address in addresses:
        if not 0 < _check_loopback(address)[1] < 1 << 16:
            raise ConfigError(f"{path} names {address}, which is not a port: remove it and restart the broker")
    return endpoints
