"""The upgrade proof: execute a journal with new code for a name, before deploying that code.

New code is accepted if every turn has the same outcome and leaves the same state; the digest of the code itself is not
compared. Kind, exports, limits, and what else a bundle holds, stay those of the old code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from rota.broker import records
from rota.common.code_kinds import kind_of
from rota.common.errors import BadChange
from rota.common.work import Code
from rota.engine.executors import Executors
from rota.host.private_folder import PrivateFolder
from rota.proof.changed import ChangePlan, Consequences, follow_change
from rota.proof.continuation import Change
from rota.proof.fork import NewCode, add_code, copy_folder
from rota.runs.open import RunSource
from rota.runs.walk import Walk, lane_of
from rota.runtimes.content import Paths


def check_upgrade(
    source: RunSource,
    name: str,
    module: Paths | bytes,
    *,
    lane: str | None = None,
    turn: int = 0,
    compare_state: bool = True,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> list[Consequences]:
    """Return what changes in each lane where the name is bound, or in one, with new code from a turn on.

    `module`: a file or folder, or the bytes of a module (see `NewCode.like`; the newest binding counts). Raises
    `BadChange` if the name is not bound there, `CodeError` if the module cannot take the old one's place.
    """
    bound = bindings(source, name, lane)
    new = NewCode.like(name, bound[-1][1], module, source.modules)
    change = Change(instead=((name, new.code.digest),))
    with contextlib.closing(PrivateFolder()) as private:
        modules = private.path / "modules"
        copy_folder(source.modules, modules)
        modules.mkdir(exist_ok=True)
        add_code(modules, [new._replace(code=code._replace(digest=new.code.digest)) for _, code in bound])
        folders = source.folders()
        folders.modules = modules
        with Executors(folders, device=device) as executors:
            return [
                follow_change(
                    source,
                    ChangePlan(one, turn, change, compare_code=False, compare_state=compare_state),
                    executors,
                    progress=progress,
                )
                for one in dict.fromkeys(lane_name for lane_name, _ in bound)
            ]


def binding_at(source: RunSource, name: str, lane: str, turn: int) -> Code | None:
    """Return the code that a name is bound to just after a turn, else its first binding; None if never bound."""
    walk = Walk(source)
    begin = walk.world.lanes.get(lane)
    code = None if begin is None else begin.deploys.get(name)
    has_retired = turn == 0
    for step in walk.steps():
        at = walk.world.lanes.get(lane)
        if at is not None and (not has_retired or code is None):
            code = at.deploys.get(name)
        has_retired = has_retired or turn in [task.turn for task in step.retired(lane)]
        if has_retired and code is not None:
            return code
    return code


def bindings(source: RunSource, name: str, lane: str | None) -> list[tuple[str, Code]]:
    """Return every code that a name was bound to, with its lane. Raises `UnknownLane`, `BadChange` if there is none."""
    walk = Walk(source)
    begin = [one for one in walk.world.lanes.values() if lane in (None, one.name)]  # of a compacted run
    names = dict.fromkeys([bound for one in begin for bound in one.deploys])
    found = [(one.name, one.deploys[name]) for one in begin if name in one.deploys]
    for step in walk.steps():
        record = step.record
        if not isinstance(record, records.Opened | records.Deployed) or lane not in (None, record.lane):
            continue
        deploys = record.deploys if isinstance(record, records.Opened) else ((record.name, record.code),)
        names |= dict.fromkeys(bound for bound, _ in deploys)
        found += [(record.lane, code) for bound, code in deploys if bound == name]
    if lane is not None:
        lane_of(walk.world, lane)
    if not found:
        known = ", ".join(sorted(names)[:8]) or "none"
        raise BadChange(f"{name!r} was never bound there (bound: {known})", name=name)
    if any(kind_of(code).has_provenance for _, code in found):
        raise BadChange(f"{name!r} is a model: its recorded results stand, `rota verify --live-models` computes them")
    return found
