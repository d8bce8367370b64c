"""Tests of NAME in the sandbox: python -m pytest"""

from pathlib import Path

import pytest

from rota.sdk.building import build_folder


@pytest.fixture(scope="session")
def built():
    return build_folder(Path(__file__).parent)


def test_it_puts_the_answers_together(rota_lane, built):
    rota_lane.deploy("NAME", built.path, built.kind, flow=True)
    assert rota_lane.submit("NAME", b"to all of you").result().payload == b"to: 2, all: 3, of: 2, you: 3"
