"""A command in a lane: deployed with arguments, environment and files, and executed again by verify."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from rota import local
from rota.common.errors import TaskFailed

# Writes its first argument, its environment and its file /data to standard output; exits with 4 without input.
PROGRAM = """(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (data (i32.const 64) "data")
  (func $put (param $from i32) (param $size i32)
    (i32.store (i32.const 16) (local.get $from)) (i32.store (i32.const 20) (local.get $size))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8))))
  (func $get (param $number i32) (result i32)
    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 100))
    (drop (call $read (local.get $number) (i32.const 16) (i32.const 1) (i32.const 8))) (i32.load (i32.const 8)))
  (func (export "_start")
    (if (i32.eqz (call $get (i32.const 0))) (then (call $exit (i32.const 4))))
    (drop (call $args (i32.const 256) (i32.const 512))) (call $put (i32.load (i32.const 260)) (i32.const 4))
    (drop (call $env (i32.const 256) (i32.const 512))) (call $put (i32.load (i32.const 256)) (i32.const 4))
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0)
      (i32.const 0) (i32.const 12)))
    (call $put (i32.const 1024) (call $get (i32.load (i32.const 12))))))"""


@pytest.mark.processes
def test_a_command_in_a_lane(tmp_path: Path) -> None:
    """Goal: deploy, result, failure and proof of a command. Method: a lane with a run file, then `rota verify`."""
    program = tmp_path / "tool.wasm"
    program.write_bytes(wat2wasm(PROGRAM))
    with local.open_lane(keep=tmp_path / "run") as lane:
        lane.deploy("tool", program, args=["one "], env={"A": "b "}, files={"data": b"content"})
        assert lane.submit("tool", b"x").result().payload == b"one A=b content"
        with pytest.raises(TaskFailed, match="exit 4"):
            lane.submit("tool", b"").result()
    command = [sys.executable, "-m", "rota.cli", "verify", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lane.digest.hex() in done.stdout
