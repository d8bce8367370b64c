"""Packaging: the folders, the list in pyproject.toml, the wheel and the loaded modules agree.

A package missing from the list works in an editable install but is not in the wheel; a module loaded under two names
has two of every class. Both would otherwise be noticed only by users.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = sorted(path.parent.name for path in REPOSITORY.glob("[!.]*/__init__.py"))
AGENT = REPOSITORY / "sdk" / "python" / "rota" / "agent"  # the package `rota.agent`: in the sandbox and on the host

# The base install is for hosts that only produce; it must not grow unnoticed.
BASE_DEPENDENCIES = ("blake3", "click", "msgpack", "msgspec", "numpy", "pyzmq")
HEAVY_MODULES = ("wasmtime", "onnxruntime", "ml_dtypes", "onnx")


def test_the_list_of_packages_is_the_folders() -> None:
    """Goal: no package is forgotten in the wheel. Method: folders with an `__init__.py` against both lists."""
    settings = PROJECT["tool"]["setuptools"]
    expected = {"rota.agent": "sdk/python/rota/agent", **{f"rota.{name}": name for name in FOLDERS}}
    assert settings["packages"] == list(expected)
    assert settings["package-dir"] == expected


@pytest.mark.parametrize("name", FOLDERS)
def test_each_package_is_flat_and_typed(name: str) -> None:
    """Goal: one level deep, and types reach the user. Method: look for subpackages and for py.typed."""
    assert (REPOSITORY / name / "py.typed").is_file()
    nested = [path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / name).glob("*/*.py")]
    assert not nested, f"packages are one level deep: {nested}"


def test_static_tools_name_every_package() -> None:
    """Goal: mypy checks every package. Method: its list against the folders."""
    listed = PROJECT["tool"]["mypy"]["files"]
    assert not [name for name in FOLDERS if f".checker/rota/{name}" not in listed]
    assert "sdk/python/rota" in listed
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert not [name for name in FOLDERS if name not in banned]


def test_the_base_install_stays_light() -> None:
    """Goal: a producer's host installs five packages. Method: compare the names."""
    names = sorted(
        requirement.partition(">")[0].partition("=")[0] for requirement in PROJECT["project"]["dependencies"]
    )
    assert names == sorted(BASE_DEPENDENCIES)


@pytest.mark.processes
def test_the_client_loads_nothing_heavy() -> None:
    """Goal: `import rota.client` works with the base install alone. Method: import it in a process of its own."""
    code = "import sys, rota.client; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    assert "rota.client" in loaded
    assert not [name for name in HEAVY_MODULES if name in loaded]
    assert not [name for name in loaded if name.startswith(("rota.broker", "rota.cpu_worker", "rota.gpu_worker"))]


def test_no_module_is_loaded_under_another_name() -> None:
    """Goal: each file of ours is one module. Method: the name of every loaded module against its path."""
    wrong: list[str] = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).resolve().parent in [REPOSITORY / folder for folder in FOLDERS]:
            path = Path(file).resolve().relative_to(REPOSITORY).with_suffix("")
            expected = "rota." + ".".join(path.parts).removesuffix(".__init__")
            if name != expected and name != "__main__":
                wrong.append(f"{name} should be {expected}")
    assert not wrong


def _sdk_files() -> list[str]:
    """Return the files of the SDKs of other languages, which are data: all below a folder of sdk/."""
    found = [path for path in (REPOSITORY / "sdk").glob("*/**/*") if path.is_file() and path.suffix != ".pyc"]
    return [path.relative_to(REPOSITORY).as_posix() for path in found]


@pytest.mark.processes
def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    """Goal: what is installed is what is here, and nothing else. Method: build the wheel from a copy and list it."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    output.mkdir()
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    code = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = output.glob("*.whl")
    held = sorted(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)
    expected = sorted(
        f"rota/{name}/{path.name}"
        for name in FOLDERS
        for path in (REPOSITORY / name).iterdir()
        if path.suffix == ".py" or path.name == "py.typed"
    )
    agent = [f"rota/agent/{path.name}" for path in AGENT.iterdir() if path.suffix == ".py" or path.name == "py.typed"]
    expected = sorted({*expected, *agent, *(f"rota/{path}" for path in _sdk_files())})
    assert held == expected
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("LICENSE") for name in archive.namelist())
