"""Which packages brought the import name `onnxruntime`. It is not imported here: the doctor asks where it fails.

`onnxruntime` and `onnxruntime-gpu` (and others below) install into the same folder. pip says nothing when both are
there: the last one installed wins, and removing one guts the other.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from rota.host.install import install_command

# The distributions that own the folder `onnxruntime`; onnxruntime-genai and -extensions have folders of their own.
OWNERS: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "onnxruntime-webgpu",
)


def installed_runtimes() -> tuple[tuple[str, str], ...]:
    """Return name and version of every installed package that owns the import name `onnxruntime`."""
    found = []
    for name in OWNERS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def package_conflict() -> str:
    """Return what is wrong with the installed packages and what to do about it, or an empty text."""
    return conflict_between(installed_runtimes())


def conflict_between(runtimes: tuple[tuple[str, str], ...]) -> str:
    """Return what is wrong with a set of installed packages, or an empty text."""
    if len(runtimes) == 1:
        return ""
    if not runtimes:
        return f"ONNX Runtime is not installed: {install_command('gpu')}"
    names = " and ".join(f"{name} {number}" for name, number in runtimes)
    every = " ".join(name for name, _ in runtimes)
    return (
        f"{names} are installed together and overwrite each other's files: "
        f"pip uninstall {every}, then {install_command('gpu')}"
    )
