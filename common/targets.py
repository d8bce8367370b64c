"""Addresses: the targets of tasks. PURE.

    name/key      an agent instance: `name` is bound to code by a deploy, `key` picks the instance
    name          the instance without a key; also how a function is called
    model:NAME    an ONNX model; model:NAME@VERSION one version of it. Both are names that a deploy binds

Names are `[A-Za-z0-9_.-]` and do not begin with a dot or a dash, so that they need no quotes in file names, URLs and
shell commands; keys may have any characters except control characters. The ranges are explicit, because outcomes depend
on them, and Python's character tables change with its version.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from rota.common.errors import BadTarget
from rota.common.limits import KEY_CHARS_MAX, NAME_CHARS_MAX
from rota.common.shown import shown

MODEL_PREFIX: Final = "model:"
DEFAULT_LANE: Final = "main"  # exists in every run

VERSION_DIGITS_MAX: Final = 9
_KNOWN_MAX: Final = 65_536  # entries of the cache of short addresses, since the same ones recur
_CHARS_MAX: Final = NAME_CHARS_MAX + 1 + KEY_CHARS_MAX  # of the longest address

_NAME: Final = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{NAME_CHARS_MAX - 1}}}"
_KEY: Final = rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{KEY_CHARS_MAX}}}"
_MODEL: Final = rf"model:{_NAME}(?:@[1-9][0-9]{{0,{VERSION_DIGITS_MAX - 1}}})?"
NAME_PATTERN: Final = rf"\A{_NAME}\Z"
CODE_NAME_PATTERN: Final = rf"\A(?:{_NAME}|{_MODEL})\Z"
TARGET_PATTERN: Final = rf"\A(?:{_NAME}(?:/{_KEY})?|{_MODEL})\Z"

_name_match: Final = re.compile(NAME_PATTERN).match
_target_match: Final = re.compile(TARGET_PATTERN).match


def is_name(text: str) -> bool:
    """Return whether `text` can name a lane, an agent's code or a model."""
    return len(text) <= NAME_CHARS_MAX and _is_name(text)


def is_target(text: str) -> bool:
    """Return whether a task can be sent to `text`."""
    return len(text) <= _CHARS_MAX and _is_target(text)


@lru_cache(_KNOWN_MAX)
def _is_name(text: str) -> bool:
    return _name_match(text) is not None


@lru_cache(_KNOWN_MAX)
def _is_target(text: str) -> bool:
    return _target_match(text) is not None


def check_target(text: str) -> str:
    """Return `text` if a task can be sent to it.

    Raises `BadTarget`, which shows the allowed forms.
    """
    if not isinstance(text, str) or not is_target(text):
        raise BadTarget(
            f"{shown(text)} is no target: use name/key, name, model:NAME or model:NAME@VERSION "
            f"(names: letters, digits, _ . -, at most {NAME_CHARS_MAX}; "
            f"keys: at most {KEY_CHARS_MAX} characters, none of them a control character)",
            target=text,
        )
    return text


@lru_cache(_KNOWN_MAX)
def code_name(target: str) -> str:
    """Return the name that a deploy binds for a target: `counter` for `counter/alice`, a model's as it is."""
    return target.split("/", 1)[0]
