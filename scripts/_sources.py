"""Which files of the repository are ours, which of them are PURE, and what a file imports. Standard library only.

check.py, draw_imports.py and the house tests use this list. A Python file is PURE if its head says so with the word
`PURE.`; it need not be registered anywhere. Folders that begin with a dot are skipped, except `.ci`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PURE_MARK = "PURE."
TEXT_SUFFIXES = (".py", ".pyi", ".md", ".toml", ".txt", ".c", ".h", ".zig", ".wat", ".sh", ".yml", ".yaml", ".json")
TEXT_NAMES = ("Procfile", "LICENSE", ".gitignore", "run")
_SKIPPED = ("build", "dist", "__pycache__", "node_modules")


def _files() -> Iterator[Path]:
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED
            and not name.endswith(".egg-info")
            and (name == ".ci" or not name.startswith("."))
            and not (Path(folder) / name).is_symlink()
        )
        for name in sorted(files):
            yield Path(folder) / name


def python_files() -> list[Path]:
    """Return every Python file of the repository, in sorted order."""
    return [path for path in _files() if path.suffix == ".py"]


def text_files() -> list[Path]:
    """Return every file that people read: sources, documents, settings."""
    return [path for path in _files() if path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES]


def package_folders() -> list[str]:
    """Return the top-level folders that are packages: those with an `__init__.py`."""
    return sorted(path.parent.name for path in REPOSITORY.glob("*/__init__.py") if not path.parent.name.startswith("."))


def is_pure(path: Path) -> bool:
    """Return whether the head of a Python file says PURE."""
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return head is not None and PURE_MARK in head.split()


def pure_files() -> list[Path]:
    """Return the PURE files of the packages."""
    packages = package_folders()
    return [path for path in python_files() if path.parent.name in packages and is_pure(path)]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every import, inside functions too, and for `import_module` of a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it from rota"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if _is_module(full) else str(node.module)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def called(node: ast.AST) -> str:
    """Return the name of the called function, without what is before the dot; "" for other nodes."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _is_module(dotted: str) -> bool:
    """Return whether `rota.x.y` is a module of ours, and not a name inside one."""
    parts = dotted.split(".")
    path = REPOSITORY.joinpath(*parts[1:])
    return parts[0] == "rota" and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())
