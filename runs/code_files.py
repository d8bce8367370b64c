"""Checks the code files that a run names: do they exist, and are they what ran?"""

from __future__ import annotations

from rota.broker.modules import programs
from rota.common.code_kinds import IS_BUNDLE, IS_MODULE, content_file, kind_of
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.targets import code_name
from rota.common.work import Code
from rota.engine.model_files import find_model
from rota.runs.open import RunSource


def changed_code(source: RunSource, code: Code, address: str) -> str:
    """Return a sentence about the file of a code that is not the one that ran; empty if there is none."""
    if not kind_of(code).is_kept:
        try:
            find_model(source.models, code.digest)
        except CodeError as error:
            return f"a file of {address!r} is not the one that was added: {error.message}"
        return ""
    content = kind_of(code).content
    changed = _changed_file(source, code.digest, content, address)
    for program in programs(source.modules, [code.digest] if content == IS_BUNDLE else []):
        changed = changed or _changed_file(source, program, IS_MODULE, address)
    return changed


def _changed_file(source: RunSource, named: bytes, content: str, address: str) -> str:
    path = source.modules / content_file(named, content)
    try:
        found = digest(path.read_bytes())
    except FileNotFoundError:
        return ""
    if found == named:
        return ""
    what = "bundle" if content == IS_BUNDLE else "module"
    said = f"{what} file {path.name} of {code_name(address)!r} is not the {what} that ran"
    return f"{said}: its content has digest {found.hex()[:16]}, the run says {named.hex()[:16]}"
