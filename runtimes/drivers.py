"""Finds the driver of a runtime: by the catalog, or `own` for modules that are not in it."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from rota.common.errors import CodeError
from rota.runtimes.catalog import runtime_with
from rota.runtimes.driver import Driver

_MODULES: Final = {name: f"rota.runtimes.{name}_driver" for name in ("own", "python", "javascript")}


def driver_of(digest: bytes) -> Driver:
    """Return the driver of the runtime with this digest."""
    runtime = runtime_with(digest)
    return driver_named("own" if runtime is None else runtime.driver)


def driver_named(name: str) -> Driver:
    """Return a driver by its name. Raises `CodeError` if this Rota has none of that name."""
    try:
        module = import_module(_MODULES[name])
    except (KeyError, ModuleNotFoundError):
        raise CodeError(f"this Rota has no driver {name!r} for runtimes: install it again, or a newer one") from None
    driver: Driver = module.DRIVER
    return driver
