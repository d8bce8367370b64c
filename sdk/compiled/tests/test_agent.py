"""Tests of NAME in the sandbox: python -m pytest"""

from pathlib import Path

import pytest

from rota.sdk.building import build_folder


@pytest.fixture(scope="session")
def built():
    return build_folder(Path(__file__).parent)


def test_it_counts(rota_lane, built):
    rota_lane.deploy("NAME", built.path, built.kind)
    results = rota_lane.submit_many("NAME/main", [b"hello", b"again"]).results()
    assert [result.payload for result in results] == [b"hello: 1", b"again: 2"]
