"""Which installed packages provide the import name `onnxruntime`. It is not imported here, since that may fail.

`onnxruntime`, `onnxruntime-gpu` and others below install into the same folder. pip does not warn when there are two:
the last one installed overwrites the other, and removing one removes files of both.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from rota.host.install import install_command

# The distributions that install the folder `onnxruntime`; onnxruntime-genai and -extensions use other folders.
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
    """Return name and version of every installed package that provides the import name `onnxruntime`."""
    found = []
    for name in OWNERS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def package_conflict() -> str:
    """Return the problem with the installed packages and the remedy, or an empty text."""
    return conflict_between(installed_runtimes())


def conflict_between(runtimes: tuple[tuple[str, str], ...]) -> str:
    """Return the problem with a set of installed packages and the remedy, or an empty text."""
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
