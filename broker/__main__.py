"""The broker process: `python -m rota.broker`, or `rota broker`. `serve` is the whole start, in order."""

from __future__ import annotations

import contextlib
import gc
import logging
from importlib.metadata import version

from rota.broker.journal import Journal
from rota.broker.lock import FolderLock
from rota.broker.modules import ModuleStore
from rota.broker.recovery import open_epoch, recover
from rota.broker.run_file import RunFile
from rota.broker.sequencer import Sequencer
from rota.broker.server import Server, ServerSockets
from rota.broker.snapshotter import SnapshotPolicy, Snapshotter
from rota.broker.state import BrokerState
from rota.broker.tensor_keeper import TensorKeeper
from rota.broker.world import World
from rota.common.errors import JournalLost
from rota.host.clock import Clock, HostClock
from rota.host.command import settings_command
from rota.host.config import BrokerSettings
from rota.host.endpoints import Endpoints
from rota.host.open_files import Door, raise_limit
from rota.host.process_watch import ProcessWatch
from rota.host.service import Exit, StopSignals, host_identity, say_ready
from rota.host.sockets import context
from rota.tensors.store import TensorStore

log = logging.getLogger(__name__)


def serve(settings: BrokerSettings) -> Exit:
    """Recover the run file and serve until told to stop."""
    folder = settings.folder().prepare()
    with contextlib.ExitStack() as open_now:
        open_now.enter_context(FolderLock(folder.root / "broker.lock"))
        stop = open_now.enter_context(StopSignals())
        run_file = open_now.enter_context(contextlib.closing(RunFile.open(folder.journal)))
        journal = Journal(run_file)
        clock = HostClock()
        world = _recover(journal, settings, clock)
        open_epoch(world, journal, clock.wall_ms())
        run_file.reserve()
        _calm_collector()
        state = BrokerState(
            world, version=version("rota"), host=host_identity(), heartbeat_ms=settings.heartbeat_ms,
            lanes_bytes=settings.lanes_bytes,
        )  # fmt: skip
        endpoints = Endpoints.publish(settings.run_dir, settings.bind or None)
        open_now.push(lambda _kind, error, _trace: _withdraw(settings, error))
        sockets = ServerSockets.bind(open_now.enter_context(context()), endpoints)
        open_now.callback(sockets.close)
        door = open_now.enter_context(contextlib.closing(Door(sockets, endpoints, raise_limit())))
        watch = open_now.enter_context(contextlib.closing(ProcessWatch()))
        tensors = TensorKeeper(TensorStore(folder.tensors), world, settings.tensor_lease_ms, clock)
        snapshots = Snapshotter(journal, world, _snapshot_policy(settings))
        modules = ModuleStore(folder.modules)
        server = Server(Sequencer(state), journal, modules, tensors, sockets, watch, clock, snapshots, door)
        say_ready("broker", boot=world.boot, frontend=endpoints.frontend)
        server.serve(stop)
    return Exit.OK


def _withdraw(settings: BrokerSettings, error: BaseException | None) -> None:
    """Remove the socket files, unless they may be those of the broker that has taken over."""
    if not isinstance(error, JournalLost):
        Endpoints.withdraw(settings.run_dir)


def _calm_collector() -> None:
    """Make the cycle collector run rarely: tasks and results are many, and freed by reference counts."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    gc.enable()


def _recover(journal: Journal, settings: BrokerSettings, clock: Clock) -> World:
    started_ms = clock.mono_ms()
    gc.disable()  # folding makes many objects without cycles; collecting took a quarter of its time
    kept = (settings.results_kept_max, settings.results_kept_bytes)
    world = recover(journal, *kept, lambda number: log.info("recovering: record %d", number))
    if journal.last_number:
        took_ms = clock.mono_ms() - started_ms
        log.info("recovered up to record %d in %d ms, next seq %d", journal.last_number, took_ms, world.next_seq)
    return world


def _snapshot_policy(settings: BrokerSettings) -> SnapshotPolicy:
    return SnapshotPolicy(
        settings.snapshot_records, settings.snapshot_bytes, settings.retain_records, settings.retain_days
    )


command = settings_command("broker", BrokerSettings, lambda: serve, "Run the broker of a run folder.")

if __name__ == "__main__":
    command()
