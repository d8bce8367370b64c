"""The remedy for a missing part names a command that works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rota.host.install import install_command


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_extra_is_of_the_folder_that_rota_came_from(extra: str) -> None:
    """Goal: the remedy does not name a foreign package. Method: read the project that is named."""
    named = re.fullmatch(r"pip install '(/.*)\[(\w+)\]'", install_command(extra))
    assert named is not None
    project = tomllib.loads((Path(named[1]) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["name"], named[2]) == ("rota", extra)
    assert extra in project["optional-dependencies"]
