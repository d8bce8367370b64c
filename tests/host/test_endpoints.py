"""The addresses of a broker: socket files, long paths, loopback ports."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rota.common.errors import ConfigError
from rota.host.endpoints import SOCKET_PATH_BYTES_MAX, Endpoints, RunFolder

posix_only = pytest.mark.skipif(os.name == "nt", reason="socket files")


@posix_only
def test_everybody_finds_the_same_socket_files(run_dir: Path) -> None:
    """Goal: broker and others agree. Method: publish, then ask, in a closed folder."""
    RunFolder(run_dir).prepare()
    endpoints = Endpoints.publish(run_dir)
    assert endpoints == Endpoints.of(run_dir)
    assert endpoints.backend == f"ipc://{run_dir}/sockets/backend.sock"
    assert len(set(endpoints)) == 4


@posix_only
def test_prepare_makes_folders_that_only_the_owner_enters(run_dir: Path) -> None:
    """Goal: other users cannot read modules or pose as the broker. Method: the modes of all folders."""
    folder = RunFolder(run_dir / "new").prepare()
    made = [folder.root, folder.modules, folder.artefacts, folder.models, folder.tensors, folder.logs, folder.sockets]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    assert folder.journal == folder.root / "run.rota"
    folder.modules.chmod(0o755)
    folder.root.chmod(0o755)
    folder.prepare()
    assert stat.S_IMODE(folder.modules.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o755, "the folder itself may be used for other things"


@posix_only
def test_long_path_moves_the_sockets_to_a_short_folder(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a deep run folder works. Method: one past the limit; its addresses fit, and are its own."""
    monkeypatch.setattr("tempfile.tempdir", str(run_dir))
    deep = [tmp_path / ("d" * 100) / name for name in ("one", "two")]
    for path in deep:
        RunFolder(path).prepare()
    first, second = (Endpoints.of(path) for path in deep)
    assert max(len(os.fsencode(address.removeprefix("ipc://"))) for address in first) <= SOCKET_PATH_BYTES_MAX
    assert first == Endpoints.of(deep[0])
    assert not set(first) & set(second)
    folder = Path(first.query.removeprefix("ipc://")).parent
    assert not folder.exists(), "asking for the addresses leaves nothing behind"
    assert Endpoints.publish(deep[0]) == first
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    Path(first.query.removeprefix("ipc://")).touch()
    Endpoints.withdraw(deep[0])
    assert not folder.exists()


@posix_only
def test_folder_that_others_can_enter_is_refused(run_dir: Path) -> None:
    """Goal: a folder where others could put a socket is not trusted. Method: open the folder to all."""
    folder = RunFolder(run_dir).prepare()
    folder.sockets.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"):
        Endpoints.of(run_dir)


def test_bound_ports_are_told_to_everybody(run_dir: Path) -> None:
    """Goal: clients need not be told of --bind. Method: publish ports, ask, start again without them."""
    RunFolder(run_dir).prepare()
    endpoints = Endpoints.publish(run_dir, "tcp://127.0.0.1:4100")
    assert endpoints == Endpoints(*(f"tcp://127.0.0.1:{port}" for port in (4100, 4101, 4102, 4103)))
    assert Endpoints.of(run_dir) == endpoints == Endpoints.of(run_dir / "elsewhere", "tcp://localhost:4100")
    assert Endpoints.publish(run_dir, "tcp://127.0.0.2:4100").query == "tcp://127.0.0.2:4103", "what it says"
    assert Endpoints.of(run_dir).frontend == "tcp://127.0.0.2:4100"
    if os.name != "nt":
        Endpoints.publish(run_dir)
        assert Endpoints.of(run_dir).frontend.startswith("ipc://")


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:4100", "tcp://10.0.0.1:4100", "tcp://example.org:1", "tcp://*:4100"]
)
def test_address_that_other_hosts_reach_is_refused(run_dir: Path, address: str) -> None:
    """Goal: no open port without encryption. Method: addresses that are not the loopback."""
    with pytest.raises(ConfigError, match="CURVE"):
        Endpoints.of(run_dir, address)


@pytest.mark.parametrize(
    "address", ["4100", "ipc:///x", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65533"]
)
def test_address_that_is_none_is_refused(run_dir: Path, address: str) -> None:
    """Goal: a slip is named. Method: addresses without a usable port."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        Endpoints.of(run_dir, address)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"frontend": "x"}', json.dumps(dict.fromkeys(Endpoints._fields, 1)), "[" * 100_000],
    ids=("empty", "list", "short", "numbers", "deep"),
)
def test_damaged_endpoints_file_is_named(run_dir: Path, content: str) -> None:
    """Goal: a message instead of a traceback. Method: files that are no table of addresses."""
    path = RunFolder(run_dir).prepare().endpoints_file
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"endpoints.json is damaged"):
        Endpoints.of(run_dir)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:٣٣٣"])
def test_an_endpoints_file_with_a_port_that_is_none_is_refused(run_dir: Path, address: str) -> None:
    """Goal: a ConfigError here, not a ZMQError later. Method: port 0, one too large, digits of another alphabet. Found
    by tests/fuzz.
    """
    path = RunFolder(run_dir).prepare().endpoints_file
    path.write_text(json.dumps(dict.fromkeys(Endpoints._fields, address)), encoding="utf-8")
    with pytest.raises(ConfigError):
        Endpoints.of(run_dir)


def test_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Goal: a message instead of a traceback. Method: a file is in the way."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="--dir or ROTA_DIR"):
        RunFolder(tmp_path / "file" / "run").prepare()


@posix_only
def test_what_is_in_the_way_is_named(run_dir: Path) -> None:
    """Goal: the user learns what to remove. Method: a dangling link, and a file, in place of a part of the folder."""
    run_dir.mkdir(exist_ok=True)
    modules = run_dir / "modules"
    modules.symlink_to(run_dir / "gone")
    with pytest.raises(ConfigError, match=f"{modules} is there and is no folder; remove it"):
        RunFolder(run_dir).prepare()
    modules.unlink()
    modules.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{modules} is there and is no folder; remove it"):
        RunFolder(run_dir).prepare()


@posix_only
@pytest.mark.parametrize("make", ["mkfifo", "mkdir"])
def test_endpoints_that_are_no_file_block_nobody(make: str, run_dir: Path) -> None:
    """Goal: no client waits for a pipe. Method: a pipe and a folder in place of the endpoints."""
    path = RunFolder(run_dir).prepare().endpoints_file
    getattr(os, make)(path)
    with pytest.raises(ConfigError, match="is no file"):
        Endpoints.of(run_dir)
    if path.is_dir():
        with pytest.raises(ConfigError, match="cannot be removed"):
            Endpoints.publish(run_dir)
