"""A source in Python in a lane of this process: packages beside it, a program as data, and the same digest again."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from runtime_kit import python_runtime

from rota import local
from rota.runtimes.programs import program_path

ASKS = """
import tidy
from helpers import words


def agent(ctx):
    if ctx.message.kind == "reply":
        end = ctx.message.value
        ctx.state = [end["value"], end["stdout"], end["error"] and end["error"]["type"]]
        ctx.reply(ctx.state)
    elif ctx.message.kind == "failure":
        ctx.state = ctx.message.value
    else:
        ctx.ask("py/sum", {"source": tidy.tidy(ctx.message.text), "value": words.NUMBERS})
"""


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A source, and what goes along: a folder with a package, and a wheel."""
    main, folder, wheel = tmp_path / "asks.py", tmp_path / "helpers", tmp_path / "tidy-1.0-py3-none-any.whl"
    main.write_text(ASKS)
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "words.py").write_text("NUMBERS = [1, 2, 3]\n")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tidy.py", "def tidy(text):\n    return text.strip()\n")
        archive.writestr("tidy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tidy\nVersion: 1.0\n")
        archive.writestr("tidy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return main, [folder, wheel]


def test_one_agent_writes_code_and_another_runs_it(
    rota_lane_factory: Callable[..., local.LocalLane], source: tuple[Path, list[Path]]
) -> None:
    """Goal: code travels as data between agents, and all of it is derived. Method: programs that end in several ways,
    in two lanes whose digests are compared.
    """
    runtime = python_runtime()
    main, beside = source
    digests = []
    for window in (1, 8):
        lane = rota_lane_factory(window=window)
        lane.deploy("asks", main, with_=beside)
        lane.deploy("py", program_path(runtime), fuel=100_000_000)
        for key, program in (
            ("sum", "  print('adding')\nsum(value)\n"),
            ("random", "import random, uuid\nstr(uuid.uuid4()) + str(random.random())"),
            ("wrong", "1 // 0"),
            ("endless", "while True: pass"),
        ):
            lane.submit(f"asks/{key}", program.encode())
        lane.run()
        states = {
            key: msgpack.unpackb(lane.state(f"asks/{key}") or b"") for key in ("sum", "random", "wrong", "endless")
        }
        assert states["sum"] == [6, "adding\n", None]
        assert states["wrong"] == [None, "", "ZeroDivisionError"]
        assert states["endless"][0] == "fuel"
        assert len(states["random"][0]) > 40
        digests.append((lane.digest, states))
    assert digests[0] == digests[1]
