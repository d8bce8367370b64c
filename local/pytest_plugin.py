"""Rota's pytest plugin: a lane for each test, and its last turns in the report if the test fails.

    rota_lane            a fresh lane; options by a marker: @pytest.mark.rota_lane(window=8)
    rota_lane_factory    makes lanes with options, as many as the test wants

pytest loads this file in every run where Rota is installed, so it imports nothing of ours before a test needs a lane.
`-p no:rota` disables it. docs/LOCAL.md shows both fixtures; change it with this file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from rota.local.lane import LocalLane

MARKER: Final = "rota_lane(**options): the options that the fixture rota_lane opens its lane with"

_LANES: Final = pytest.StashKey[list["LocalLane"]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def rota_lane_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., LocalLane]]:
    """Open a lane with these options (see `rota.local.Lane`); each is closed after the test."""
    from rota.common.errors import ConfigError
    from rota.local.lane import LocalLane

    known = list(inspect.signature(LocalLane).parameters)
    lanes: list[LocalLane] = []
    request.node.stash[_LANES] = lanes

    def open_lane(name: str = "main", **options: Any) -> LocalLane:
        for option in options:
            if option not in known:
                raise ConfigError(f"a lane has no option {option!r}: use {', '.join(known)}")
        lane = LocalLane(name, **options)
        lanes.append(lane)
        return lane

    yield open_lane
    for lane in reversed(lanes):
        lane.close()


@pytest.fixture
def rota_lane(request: pytest.FixtureRequest, rota_lane_factory: Callable[..., LocalLane]) -> LocalLane:
    """A fresh lane with real executors, closed after the test."""
    marker = request.node.get_closest_marker("rota_lane")
    return rota_lane_factory(**(marker.kwargs if marker is not None else {}))


@pytest.hookimpl(hookwrapper=True)  # the older form, which every pytest that loads this file has
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add what its lanes did to the report of a failed test."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    if call.when == "call" and report.failed:
        for lane in item.stash.get(_LANES, []):
            report.sections.append((f"rota lane {lane.name}", lane.report()))
