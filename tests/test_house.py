"""The rules of the house, checked on the sources: imports, what PURE means, sizes, heads, markers.

Everything is read with `ast`, nothing is imported. scripts/_sources.py lists our files and the PURE ones. With a rule
here, change docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _load_sources():
    spec = importlib.util.spec_from_file_location("_sources", REPOSITORY / "scripts" / "_sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCES = _load_sources()
PYTHON_FILES: list[Path] = SOURCES.python_files()
PURE_FILES: list[Path] = SOURCES.pure_files()
PACKAGES: list[str] = SOURCES.package_folders()
imports = SOURCES.imports
_called = SOURCES.called
PACKAGE_FILES = [path for path in PYTHON_FILES if path.parent.name in PACKAGES]

MAY_IMPORT = {
    "common": ("common",),
    "host": ("host", "common"),
    "tensors": ("tensors", "host", "common"),
    "conversations": ("conversations", "host", "common"),
    "runtimes": ("runtimes", "sdk", "host", "common"),
    "worker": ("worker", "host", "common"),
    "broker": ("broker", "runtimes", "conversations", "tensors", "host", "common"),
    "wasi": ("wasi", "common"),
    "cpu_worker": ("cpu_worker", "wasi", "runtimes", "worker", "tensors", "host", "common"),
    "generation": ("generation", "tensors", "host", "common"),
    "gpu_worker": ("gpu_worker", "generation", "worker", "conversations", "tensors", "host", "common"),
    "client": ("client", "runtimes", "tensors", "host", "common"),
    "engine": (
        "engine",
        "broker",
        "cpu_worker",
        "gpu_worker",
        "worker",
        "runtimes",
        "conversations",
        "tensors",
        "host",
        "common",
    ),
    "model_builds": ("model_builds", "host", "common"),
    "sdk": ("sdk", "host", "common"),
    "sdk/python": ("agent",),  # the package rota.agent, which also runs in the sandbox, and agents
    "local": ("local", "engine", "broker", "gpu_worker", "runtimes", "conversations", "tensors", "host", "common"),
    "runs": ("runs", "engine", "broker", "runtimes", "conversations", "tensors", "host", "common"),
    "proof": ("proof", "runs", "engine", "broker", "runtimes", "conversations", "tensors", "host", "common"),
    "cli": (
        "cli",
        "proof",
        "runs",
        "engine",
        "broker",
        "cpu_worker",
        "gpu_worker",
        "model_builds",
        "sdk",
        "client",
        "runtimes",
        "worker",
        "conversations",
        "tensors",
        "host",
        "common",
    ),
    "examples": ("client", "local", "agent"),
}

# A head that loses its PURE would exempt the file from the rules below, so the core is listed here too.
ALWAYS_PURE = (
    "broker/dispatch.py",
    "broker/lane.py",
    "broker/producers.py",
    "broker/records.py",
    "broker/tasks.py",
    "broker/world.py",
    "client/session.py",
    "common/code_kinds.py",
    "common/digests.py",
    "common/errors.py",
    "worker/executor.py",
    "common/limits.py",
    "common/messages.py",
    "common/targets.py",
    "common/wire.py",
    "common/work.py",
    "common/outcomes.py",
)

# What a PURE file may import from outside: values, types and encodings; nothing with a clock, files or randomness.
# `sys` is for the byte order, `numpy` for dtypes.
PURE_MAY_IMPORT = (
    "__future__", "array", "base64", "bisect", "blake3", "collections", "collections.abc", "dataclasses", "difflib",
    "enum", "functools", "heapq", "html", "itertools", "json", "math", "ml_dtypes", "msgpack", "msgspec", "numpy",
    "numpy.typing", "operator", "re", "struct", "sys", "tomllib", "types", "typing",
)  # fmt: skip
IMPURE_CALLS = ("hash", "id", "open", "input", "print")
# Functions whose result does not depend on the order of their iterable.
ORDER_FREE_CALLS = ("all", "any", "frozenset", "len", "set", "sorted", "sum")

LINE_CHARS_MAX = 120
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
HEAD_LINES_MAX = 40
MARKERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~$}-])/(?:work|root|home|Users)/[\w.]")


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# --- who imports whom -----------------------------------------------------------------------------


def import_breaches(folder: str, tree: ast.Module) -> list[str]:
    """Return the imports of a file in `folder` that the table MAY_IMPORT does not allow."""
    found: list[str] = []
    for line, module in imports(tree):
        parts = module.split(".")
        if parts[0] == "rota" and (len(parts) < 2 or parts[1] not in MAY_IMPORT[folder]):
            found.append(f"line {line}: {folder} may not import {module}")
        if parts[0] in PACKAGES:
            found.append(f"line {line}: import rota.{module}, or the module exists twice")
    return found


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_name)
def test_imports_follow_the_table(path: Path) -> None:
    """Goal: broker, workers and client stay independent of each other. Method: each import against MAY_IMPORT."""
    folder = _name(path).split("/")[0]
    if _name(path).startswith("sdk/python/"):
        folder = "sdk/python"
    if folder in MAY_IMPORT:
        assert not import_breaches(folder, _tree(path))
    else:
        assert not [module for _, module in imports(_tree(path)) if module.split(".")[0] in PACKAGES]


def test_every_package_has_its_row() -> None:
    """Goal: a new package cannot escape the table. Method: compare the folders with its keys."""
    assert set(PACKAGES) <= set(MAY_IMPORT)


def test_a_breach_is_seen() -> None:
    """Goal: the import rule can fail. Method: feed it one breach of each kind."""
    for source in (
        "import rota.broker.core",
        "from rota.broker import core",
        "from rota import broker",
        "def f():\n    from rota.cpu_worker import sandbox",
        "import importlib\nimportlib.import_module('rota.gpu_worker')",
        "import common.errors",
    ):
        assert import_breaches("client", ast.parse(source)), source
    assert not import_breaches("client", ast.parse("from rota.common import limits\nimport rota.client\nimport zmq"))


# --- PURE files -----------------------------------------------------------------------------------


def _is_set(node: ast.AST, set_names: frozenset[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in set_names
    if isinstance(node, ast.Attribute):
        return node.attr in set_names
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, set_names) or _is_set(node.right, set_names)
    return isinstance(node, ast.Set | ast.SetComp) or _called(node) in ("set", "frozenset")


def _set_names(tree: ast.Module) -> frozenset[str]:
    """Return the names and attributes that the file annotates as sets or binds to a set."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node
            if re.match(r"(?:typing\.)?(?:Final\[)?(?:frozenset|set|AbstractSet|Set)\b", ast.unparse(node.annotation)):
                found.add(getattr(target, "id", None) or getattr(target, "attr", None) or getattr(target, "arg", ""))
        elif (
            isinstance(node, ast.Assign) and _is_set(node.value, frozenset()) and not isinstance(node.value, ast.BinOp)
        ):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(found)


def set_loops(tree: ast.Module) -> list[str]:
    """Return the places that depend on the order of a set: loops, comprehensions, `list(...)`, `join`, `pop`."""
    names = _set_names(tree)
    free: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in ORDER_FREE_CALLS:
            free.update(node.args)
    found: list[str] = []
    for node in ast.walk(tree):
        looped: list[ast.expr] = []
        if isinstance(node, ast.For):
            looped = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp) and node not in free:
            looped = [generator.iter for generator in node.generators]
        elif _called(node) in ("dict", "enumerate", "iter", "join", "list", "map", "next", "tuple", "zip"):
            assert isinstance(node, ast.Call)
            looped = list(node.args)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
            looped = [] if node.args else [node.func.value]
        elif isinstance(node, ast.Starred):
            looped = [node.value]
        found += [f"line {item.lineno}: the order of a set" for item in looped if _is_set(item, names)]
    return found


def purity_breaches(tree: ast.Module, pure_modules: frozenset[str]) -> list[str]:
    """Return the violations of a PURE file."""
    found = set_loops(tree)
    for line, module in imports(tree):
        if module.split(".")[0] == "rota":
            if module not in pure_modules:
                found.append(f"line {line}: {module} is not PURE")
        elif module not in PURE_MAY_IMPORT:
            found.append(f"line {line}: a PURE file may not import {module}; take what it gives as a value")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"line {node.lineno}: a PURE file calls no {node.func.id}()")
        if isinstance(node, ast.Attribute) and node.attr == "random":
            found.append(f"line {node.lineno}: chance; take it as a value")
    return found


@pytest.mark.parametrize("path", PURE_FILES, ids=_name)
def test_pure_files_are_pure(path: Path) -> None:
    """Goal: no clock, chance, IO or hash order in a PURE file. Method: imports, calls and loops over sets."""
    modules = frozenset("rota." + _name(other)[:-3].replace("/", ".") for other in PURE_FILES)
    assert not purity_breaches(_tree(path), modules)


def test_the_core_is_pure() -> None:
    """Goal: no file of the core loses its PURE unseen. Method: the known list against what the heads say."""
    missing = [name for name in ALWAYS_PURE if name not in [_name(path) for path in PURE_FILES]]
    assert not missing, f"their heads do not say {SOURCES.PURE_MARK}: {missing}"


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "import zoneinfo",
        "import numpy.random",
        "import numpy as np\nx = np.random.default_rng()",
        "from rota.broker import server",
        "hash('a')",
        "for x in {1, 2}: pass",
        "a = set()\nb = [x for x in a]",
        "class C:\n    names: set[str]\n    def f(self):\n        return list(self.names)",
        "class C:\n    names: set[str]\n    def f(self):\n        return self.names.pop()",
        "def f(names: frozenset[str]):\n    return ','.join(names)",
        "def f(names: set[str]):\n    return (*names,)",
    ],
)
def test_an_impurity_is_seen(source: str) -> None:
    """Goal: the purity rule can fail. Method: feed it one breach of each kind."""
    assert purity_breaches(ast.parse(source), frozenset())


def test_order_free_uses_of_sets_are_allowed() -> None:
    """Goal: sets stay useful. Method: feed the rule what cannot show their order."""
    source = "a = set()\nb = sorted(a)\nc = any(x for x in a)\nd = 1 in a\ne = {1: 2}.pop(1)\nf = sorted(x for x in a)"
    assert not purity_breaches(ast.parse(source), frozenset())


# --- sizes, heads, markers ------------------------------------------------------------------------


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", PYTHON_FILES, ids=_name)
def test_sizes_and_head(path: Path) -> None:
    """Goal: files and functions that can be read at once, each file with a head. Method: count."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = _tree(path)
    head = ast.get_docstring(tree)
    assert head, "a file begins with a docstring: what lives here, the rule that keeps it so, what changes with it"
    assert len(head.splitlines()) <= HEAD_LINES_MAX
    assert len(lines) <= FILE_LINES_MAX, f"{len(lines)} lines; the limit is {FILE_LINES_MAX}"
    long_lines = [number for number, line in enumerate(lines, 1) if len(line) > LINE_CHARS_MAX]
    assert not long_lines, f"lines longer than {LINE_CHARS_MAX}: {long_lines}"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long_functions = {node.name: _body_lines(node) for node in functions if _body_lines(node) > FUNCTION_LINES_MAX}
    assert not long_functions, f"functions longer than {FUNCTION_LINES_MAX} lines: {long_functions}"


@pytest.mark.parametrize("path", SOURCES.text_files(), ids=_name)
def test_no_markers_and_no_paths_of_a_machine(path: Path) -> None:
    """Goal: nothing is left for later unsaid, nothing works on one machine only. Method: search every text."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not MARKERS.search(line), f"line {number}: {line.strip()}"
        assert not MACHINE_PATHS.search(line), f"line {number}: the path of a machine: {line.strip()}"


# --- words ------------------------------------------------------------------------------------------


def class_homes(files: list[Path]) -> dict[str, list[str]]:
    """Return in which files each class name stands, private ones without their underscore."""
    homes: dict[str, list[str]] = {}
    for path in files:
        names = {node.name.lstrip("_"): None for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)}
        for name in names:
            homes.setdefault(name, []).append(path.as_posix())
    return homes


def test_a_class_name_has_one_meaning() -> None:
    """Goal: a name read anywhere means one thing. Method: no class name stands in two files of the packages."""
    packages = [path for path in PACKAGE_FILES if path.parent.parent == REPOSITORY]
    shared = {name: files for name, files in class_homes(packages).items() if len(files) > 1}
    assert not shared


def test_a_shared_class_name_is_seen(tmp_path: Path) -> None:
    """Goal: the rule can fail. Method: a class and a private one of the same name in two files."""
    for name, source in (("a.py", "class Run: pass"), ("b.py", "class _Run: pass")):
        (tmp_path / name).write_text(source, encoding="utf-8")
    assert [name for name, files in class_homes(sorted(tmp_path.iterdir())).items() if len(files) > 1] == ["Run"]
