"""Sources in Python in the sandbox: files, chance, leaks, depth, failures, programs, tensors.

test_conformance.py has the verbs. Compiled runtime and base image are shared by all tests of a user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
import pytest
from python_sandbox import NOW_MS, PythonSandbox

from rota.common.errors import CodeError
from rota.common.work import Code, Done, Failed
from rota.runtimes.programs import decode_program_end, encode_program, program_path
from rota.runtimes.python_driver import VALUE_BYTES_MAX


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonSandbox]:
    made = PythonSandbox(tmp_path_factory.mktemp("python"))
    yield made
    made.executor.close()


@pytest.fixture(scope="module")
def evaluator(sandbox: PythonSandbox) -> Code:
    """An agent that executes its payload, with `ctx` and the module's own `kept`."""
    return sandbox.deploy("kept = []\ndef agent(ctx):\n    exec(ctx.message.text, {**globals(), 'ctx': ctx})\n")


def failure(sandbox: PythonSandbox, code: Code, payload: str) -> Failed:
    outcome = sandbox.run(code, payload.encode())
    assert isinstance(outcome, Failed), outcome
    return outcome


def test_files_and_packages_import_each_other(sandbox: PythonSandbox) -> None:
    """Goal: a source of several files works as on the host. Method: modules, packages, data, args and environment."""
    code = sandbox.deploy(
        {
            "src/main.py": (
                "import os, sys, helper, pkg.inner, top\n"
                "seen = [helper.NAME, pkg.inner.TEXT, top.X, open('/data/words.txt').read(), sys.argv[1:],\n"
                "        os.environ.get('MODE'), __name__, sorted(os.listdir('/data'))]\n"
                "def agent(ctx):\n"
                "    open('/data/new.txt', 'w').write('x')\n"
                "    ctx.reply([seen, sorted(os.listdir('/data'))])\n"
            ),
            "src/helper.py": "NAME = 'helper'\n",
            "pkg/__init__.py": "",
            "pkg/inner.py": "import helper\nTEXT = helper.NAME + ' inside'\n",
            "top.py": "X = 1\n",
            "data/words.txt": "words",
        },
        args=("a", "b"),
        env={"MODE": "test"},
    )
    seen = ["helper", "helper inside", 1, "words", ["a", "b"], "test", "main", ["words.txt"]]
    assert sandbox.reply(code) == [seen, ["new.txt", "words.txt"]]
    assert sandbox.reply(code) == [seen, ["new.txt", "words.txt"]]


def test_chance_is_the_tasks_own(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: equal entropy gives equal chance, other entropy another. Method: every source of chance, in two turns."""
    source = (
        b"import os, random, secrets, uuid, time\n"
        b"ctx.reply([random.random(), str(uuid.uuid4()), secrets.token_hex(8), os.urandom(8), random.Random().random(),"
        b" random.SystemRandom().random()])"
    )
    first, again, other = (sandbox.reply(evaluator, source, turn=turn) for turn in (1, 1, 2))
    assert first == again
    assert not set(first) & set(other)
    same = b"ctx.reply([hash('text'), list({'a', 'b', 'c', 'd'})])"
    assert sandbox.reply(evaluator, same, turn=1) == sandbox.reply(evaluator, same, turn=2)
    clocks = sandbox.reply(
        evaluator, b"import time; a = time.time_ns(); time.sleep(60); ctx.reply([a, time.time_ns()])"
    )
    assert 0 <= clocks[0] - NOW_MS * 10**6 < 10**9
    assert 60 * 10**9 <= clocks[1] - clocks[0] < 61 * 10**9


def test_nothing_leaks_from_task_to_task(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: a fresh instance for each task. Method: a global, a file and a module's state, changed and looked at."""
    change = (
        b"import json, sys; kept.append(1); open('/left', 'w').write('x'); json.left = 1; sys.setrecursionlimit(50)\n"
        b"ctx.reply(len(kept))"
    )
    look = (
        b"import json, os, sys\n"
        b"ctx.reply([kept, os.path.exists('/left'), hasattr(json, 'left'), sys.getrecursionlimit()])"
    )
    fresh = [[], False, False, 1000]
    assert sandbox.reply(evaluator, look) == fresh
    fuel = sandbox.run(evaluator, look).fuel
    assert sandbox.reply(evaluator, change) == sandbox.reply(evaluator, change) == 1
    assert sandbox.reply(evaluator, look) == fresh
    assert sandbox.run(evaluator, look).fuel == fuel


@pytest.mark.parametrize(
    "source",
    [
        "f = lambda n: f(n); f(0)",
        "def f(): return max([1, 2], key=lambda x: f())\nf()",
        "import json; json.loads('[' * 100_000)",
        "a = []\nfor _ in range(50_000): a = [a]\nrepr(a)",
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        "class A:\n    def __eq__(self, o): return [self] == [o]\nA() == A()",
        "import copy\na = []\nfor _ in range(50_000): a = [a]\ncopy.deepcopy(a)",
    ],
)
def test_deep_recursion_is_a_recursion_error(sandbox: PythonSandbox, evaluator: Code, source: str) -> None:
    """Goal: the stack ends in the language's own error, also through C. Method: recursions of several kinds."""
    assert failure(sandbox, evaluator, source).message.startswith("RecursionError: maximum recursion depth exceeded")
    caught = f"try:\n    exec({source!r})\nexcept RecursionError:\n    ctx.reply('caught')"
    outcome = sandbox.run(evaluator, caught.encode())
    assert isinstance(outcome, Done), outcome


def test_what_fails_says_where(sandbox: PythonSandbox) -> None:
    """Goal: the source's own traceback. Method: an exception across files, with its text, its cause, and the log."""
    code = sandbox.deploy(
        {
            "agent.py": "import helper\ndef agent(ctx):\n    print('before')\n    helper.parse(ctx.message.text)\n",
            "helper.py": "import json\ndef parse(text):\n    return json.loads(text)\n",
        }
    )
    failed = failure(sandbox, code, "{")
    assert failed.kind == "error"
    assert failed.message == (
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
        '  File "/agent.py", line 4, in agent\n    helper.parse(ctx.message.text)\n'
        '  File "/helper.py", line 3, in parse\n    return json.loads(text)\n'
        "           ^^^^^^^^^^^^^^^^"
    )
    assert failed.log[0] == "before"
    assert failed.log[1] == "Traceback (most recent call last):"
    assert "rota" not in "".join(failed.log)


def test_what_the_sandbox_lacks_says_so(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: code that expects no network or threads goes on, and what cannot be had has a remedy, said once. Method:
    the network, threads, a time zone, no memory, a folder for temporary files, a main file without suffix.
    """
    for source in (
        "import socket; socket.create_connection(('example.com', 80))",
        "import socket; socket.gethostname()",
        "import urllib.request; urllib.request.urlopen('http://example.com')",
    ):
        assert sandbox.reply(evaluator, f"try:\n    {source}\nexcept OSError:\n    ctx.reply(1)".encode()) == 1, source
    threads = "import threading\ntry:\n    threading.Thread(target=int).start()\nexcept RuntimeError:\n    ctx.reply(1)"
    assert sandbox.reply(evaluator, threads.encode()) == 1
    pool = failure(sandbox, evaluator, "from concurrent.futures import ThreadPoolExecutor")
    assert "the sandbox has no threads and processes" in pool.message
    zone = failure(sandbox, evaluator, "import zoneinfo; zoneinfo.ZoneInfo('Europe/Berlin')")
    assert "give the wheel of tzdata along" in zone.message
    memory = failure(sandbox, evaluator, "'x' * (1 << 30)")
    assert memory.message.startswith("MemoryError: the task's memory is spent;")
    assert sandbox.reply(evaluator, b"open('/tmp/x', 'w').write('a'); ctx.reply([open('/tmp/x').read()])") == ["a"]
    once = failure(sandbox, evaluator, "raise ValueError")
    assert (once.message.splitlines()[0], once.log) == ("ValueError: ", ())
    assert sandbox.reply(sandbox.deploy({"planner": "def agent(ctx):\n    ctx.reply(7)\n"})) == 7


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"agent.py": "def agent(ctx)\n"}, "SyntaxError: expected ':'"),
        (
            {"agent.py": "\nimport numpy\n"},
            'such as numpy, cannot)\nTraceback (most recent call last):\n  File "/agent.py", line 2,',
        ),
        ({"agent.py": "import lzma\n"}, "No module named '_lzma' (the Python of the sandbox has no lzma;"),
        ({"agent.py": "import sys\nsys.stdout = None\ndef agent(ctx): pass\n"}, "it has changed Python itself"),
        ({"agent.py": "x = 1\n"}, "agent.py has no function `agent`"),
        ({"agent.py": "def agent(ctx): pass\n", "random.py": ""}, "random.py has the name of a module of Python"),
    ],
)
def test_a_source_that_does_not_load_says_why(
    sandbox: PythonSandbox, files: Mapping[str, str | bytes], text: str
) -> None:
    """Goal: a deploy fails with the source's own words. Method: what can go wrong while loading."""
    with pytest.raises(CodeError) as caught:
        sandbox.deploy(files)
    assert text in caught.value.message
    assert "/rota/agent" not in caught.value.message


@pytest.mark.parametrize(
    ("boot", "text"),
    [
        ({}, "the bundle has no rota/agent/boot.py"),
        ({"rota/agent/boot.py": b"pass"}, "ended, and did not stop"),
        (
            {
                "rota/agent/boot.py": b"import time\nwith open('/rota/freeze', 'w') as f: f.write('x')\ntime.time()",
            },
            "it noted no 6 addresses",
        ),
    ],
)
def test_a_bundle_with_other_boot_files_is_refused(
    sandbox: PythonSandbox, boot: Mapping[str, bytes], text: str
) -> None:
    """Goal: a bundle of anybody's making is an error of the deploy. Method: none of the files, and wrong ones."""
    with pytest.raises(CodeError) as caught:
        sandbox.deploy("def agent(ctx): pass\n", boot)
    assert text in caught.value.message


def test_values_are_the_same_whoever_reads_them(sandbox: PythonSandbox) -> None:
    """Goal: no value depends on whether the host or the guest reads it. Method: values below and above the bound of
    size, and payloads that are no value.
    """
    code = sandbox.deploy("def agent(ctx):\n    ctx.reply([type(ctx.message.value).__name__, ctx.message.value])\n")
    for value in (None, 1.5, [1, {"a": b"\xff"}], {1: "x", b"k": [None]}, "text"):
        small, large = [value], [value, "x" * VALUE_BYTES_MAX]
        assert sandbox.reply(code, msgpack.packb(small)) == ["list", small]
        assert sandbox.reply(code, msgpack.packb(large)) == ["list", large]
    for payload in (b"", b"\xc1", b"\xa1\xff", b"\xc7\x01\x05a", b"\x81\x90\x01", b"\x01\x01"):
        for data in (payload, payload + b"\x01" * VALUE_BYTES_MAX):
            outcome = sandbox.run(code, data)
            assert isinstance(outcome, Failed)
            assert outcome.message.startswith("ValueError: "), data[:10]


def test_bounds_end_a_task(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: fuel, memory and messages are bounded, and what was printed before is kept. Method: over each bound."""
    spin = failure(sandbox, evaluator, "print('before')\nwhile True: pass")
    assert (spin.kind, spin.log) == ("fuel", ("before",))
    memory = failure(sandbox, evaluator, "print('before'); 'x' * (1 << 30)")
    assert (memory.kind, memory.log[0]) == ("error", "before")
    assert memory.message.startswith("MemoryError")
    small = failure(sandbox, evaluator, "a = []\nwhile True: a.append(bytes(1 << 16))")
    assert small.message.startswith("MemoryError")
    assert failure(sandbox, evaluator, "ctx.emit('a', bytes(2 << 20))").kind == "bad_output"
    large = sandbox.run(evaluator, b"ctx.reply(len(ctx.message.payload))#" + bytes(1).replace(b"\0", b"x") * 1_000_000)
    assert isinstance(large, Done)


def test_programs_as_data(sandbox: PythonSandbox) -> None:
    """Goal: code that comes as a message runs, and its end is a value. Method: programs through `encode_program`."""
    path = program_path(sandbox.runtime)
    code = sandbox.deploy({path.name: path.read_bytes()})

    def run(source: str, **more: Any) -> Any:
        outcome = sandbox.run(code, encode_program(source, **more))
        assert isinstance(outcome, Done), outcome
        assert outcome.result is not None
        return decode_program_end(outcome.result)

    read = "import sys\nprint(sys.argv[1:], input(), open('a/b.txt').read(), value, sys.argv[0])\n[1, {'a': None}]"
    end = run(read, args=["x"], stdin=b"line\n", files={"a/b.txt": b"file"}, value=7, name="mine.py")
    assert end == ("['x'] line file 7 mine.py\n", "", [1, {"a": None}], None, 0)
    sleep = "import asyncio\nasync def main(): await asyncio.gather(*map(asyncio.sleep, range(5)))\n"
    assert run(sleep + "asyncio.run(main())").error is None
    assert (
        run("import asyncio\nasync def f(): await asyncio.Future()\nasyncio.run(f())").error["type"] == "RuntimeError"
    )
    assert run("import threading\nthreading.Thread(target=print).start()").error["type"] == "RuntimeError"
    assert run("import subprocess\nsubprocess.run(['ls'])").error["type"] == "OSError"
    assert run("import socket\nsocket.socket()").error["type"] == "OSError"
    assert run("open('/rota/agent/step.py', 'w')").error["type"] == "OSError"
    assert run("raise SystemExit(3)").exit == 3
    spin = sandbox.run(code, encode_program("while True: pass"))
    assert isinstance(spin, Failed)
    assert spin.kind == "fuel"


def test_tensors_are_read_made_and_passed_on(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: arrays in and out. Method: a given one is read in parts and as a view, a new one goes with the reply."""
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    ref = sandbox.tensors.put(given)
    source = """
first = ctx.message.tensors[0]
view = first.view()
made = ctx.tensor("float32", (3,), array.array("f", [sum(view[r, c] for r in range(2)) for c in range(3)]))
ctx.emit("next/x", first.read(4, 8), tensors=[made, first])
ctx.reply([first.dtype, first.shape, first.nbytes, view.tolist(), made.view().tolist(), list(first.array())], [made])
"""
    outcome = sandbox.run(evaluator, b"import array\n" + source.encode(), tensors=(ref,))
    assert isinstance(outcome, Done), outcome
    assert outcome.result is not None
    dtype, shape, size, read, made, flat = msgpack.unpackb(outcome.result)
    assert (dtype, shape, size) == ("float32", [2, 3], 24)
    assert read == given.tolist()
    assert flat == given.ravel().tolist()
    assert made == [3.0, 5.0, 7.0]
    (emit,) = outcome.emits
    assert emit.payload == given.tobytes()[4:12]
    assert emit.tensors == (*outcome.tensors, ref)
    assert sandbox.tensors.open(outcome.tensors[0]).tolist() == made
    for wrong, text in (
        ("ctx.tensor('float32', (3,), b'')", "ValueError: float32 [3] takes 12 bytes, not 0"),
        ("ctx.tensor('text', (3,), b'')", "ValueError: unknown dtype 'text'"),
        ("ctx.tensor('bool', (1,), b'\\x02')", "OSError: "),
        ("ctx.reply(b'', tensors=[1])", "TypeError: not a tensor of this task"),
    ):
        assert failure(sandbox, evaluator, wrong).message.startswith(text)
