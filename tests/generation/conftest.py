"""Tiny decoders, built once: with float32 weights, and with 4-bit blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from decoder_kit import TinyDecoder

from rota.model_builds.random_decoder import TINY, build_random_decoder


@pytest.fixture(scope="session", params=["float32", "4 bits"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    quantised = request.param == "4 bits"
    return build_random_decoder(tmp_path_factory.mktemp("decoder"), quantised=quantised)


@pytest.fixture(scope="session")
def decoder(folder: Path) -> TinyDecoder:
    return TinyDecoder(folder)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TinyDecoder:
    """A float32 decoder, for what does not depend on the weights."""
    return TinyDecoder(build_random_decoder(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> TinyDecoder:
    """A decoder with a context that holds the description of a tool."""
    folder = tmp_path_factory.mktemp("roomy")
    return TinyDecoder(build_random_decoder(folder, replace(TINY, context=1024)), context=1024)
