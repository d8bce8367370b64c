"""The stack of the threads that run models: the longest rule fits, and a host that does not grant it is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rota.common.text_calls import RULE_BYTES_MAX, TOOLS_BYTES_MAX
from rota.model_builds.byte_tokenizer import tokenizer_json

CHILD = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from rota.common.errors import BadPayload, ConfigError
from rota.common.text_calls import OutputRule
from rota.generation.constraint import Grammars
from rota.model_builds.byte_tokenizer import STOP_TOKEN, VOCABULARY
from rota.worker import deep_stack

def follow(kind, rule):
    constraint = Grammars(Path(sys.argv[1]), VOCABULARY, [STOP_TOKEN]).constraint(OutputRule(kind, rule))
    for _ in range(3):
        tokens = [token for token, allowed in enumerate(constraint.allowed()) if allowed and token != STOP_TOKEN]
        if not tokens:
            break
        constraint.accept(tokens[-1])

def said(kind, rule):
    try:
        follow(kind, rule)
    except BadPayload as error:
        return error.message
    return "ok"
"""
SMALLEST = """
deep_stack.STACK_BYTES = deep_stack.STACK_BYTES_MIN
pool = ThreadPoolExecutor(1)
deep_stack.with_deep_stack(lambda: pool.submit(int).result())
"""
OF_LANES = """
from rota.engine.executors import _shared_thread
pool = _shared_thread()
"""


def _child(tmp_path: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    command = [sys.executable, "-c", CHILD + program, str(tokenizer), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _lark(step: str, end: str) -> str:
    """Return the longest chain of rules."""
    lines, size = ["start: R0"], 40
    while (size := size + len(line := step.format(len(lines) - 1, len(lines))) + 1) <= RULE_BYTES_MAX:
        lines.append(line)
    return "\n".join([*lines, end.format(len(lines) - 1), ""])


def _schema(step: Any, limit: int) -> str:
    """Return the longest chain of references, which are as short as can be."""
    schema: dict[str, Any] = {"$ref": "#/0"}
    size = 40
    while True:
        at = len(schema) - 1
        link = step({"$ref": f"#/{at + 1}"})
        size += len(json.dumps({str(at): link}, separators=(",", ":")))
        if size > limit:
            return json.dumps({**schema, str(at): {"type": "null"}}, separators=(",", ":"))
        schema[str(at)] = link


CHAINS = {
    "rules": ("grammar", _lark("r{}:r{}", 'r{}:"y"').replace("R0", "r0")),
    "rules with text": ("grammar", _lark('r{}:"x" r{}', 'r{}:"y"').replace("R0", "r0")),
    "terminals": ("grammar", _lark('R{}:"x"|R{}"y"', 'R{}:"y"')),
    "references": ("json_schema", _schema(lambda to: to, RULE_BYTES_MAX)),
    "properties": ("json_schema", _schema(lambda to: {"properties": {"a": to}}, RULE_BYTES_MAX)),
    "items": ("json_schema", _schema(lambda to: {"items": to}, RULE_BYTES_MAX)),
    "all of": ("json_schema", _schema(lambda to: {"allOf": [to]}, RULE_BYTES_MAX)),
    "any of": ("json_schema", _schema(lambda to: {"anyOf": [to, {"type": "null"}]}, RULE_BYTES_MAX)),
    "tools": ("json_schema", _schema(lambda to: {"items": to}, TOOLS_BYTES_MAX)),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_longest_chain_fits(chain: str, tmp_path: Path) -> None:
    """Goal: no rule that a call may hold ends the process. Method: chains as long as the limit, on the smallest stack
    that is accepted and on that of local lanes, in a process of their own; the library takes or refuses them.
    """
    kind, rule = CHAINS[chain]
    assert 0.95 * RULE_BYTES_MAX <= len(rule) <= TOOLS_BYTES_MAX
    path = tmp_path / "rule"
    path.write_text(rule)
    for where in (SMALLEST, OF_LANES):
        done = _child(
            tmp_path,
            f"{where}\nprint(pool.submit(said, sys.argv[2], open(sys.argv[3]).read()).result())",
            kind,
            str(path),
        )
        assert done.returncode == 0, (done.returncode, done.stderr[-500:])
        assert done.stdout.strip() == "ok" or "is refused" in done.stdout, done.stdout


LIMITED = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
before = threading.stack_size()
thread = threading.Thread(target=print, args=("started",))
try:
    deep_stack.with_deep_stack(thread.start)
    thread.join()
except ConfigError as error:
    print(error.message)
assert threading.stack_size() == before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of address space")
@pytest.mark.parametrize(
    ("room", "said"), [(1 << 30, "started"), (160 << 20, "started"), (48 << 20, "ulimit -v unlimited")]
)
def test_a_host_with_little_address_space(room: int, said: str, tmp_path: Path) -> None:
    """Goal: a smaller stack is taken where it still is enough, else the limit is named. Method: RLIMIT_AS."""
    done = _child(tmp_path, LIMITED, str(room))
    assert said in done.stdout, (done.stdout, done.stderr[-500:])
