"""The types of the fields of messages and records, with their bounds. PURE.

Each type is a plain type with a `Meta`: msgspec checks the bounds while decoding (shape.py). docs/PROTOCOL.md has the
same bounds; tests/test_field_tables.py compares the two. A `description` is the text of a refusal, where the bound
alone would not say what to do.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta

from rota.common import limits
from rota.common.targets import CODE_NAME_PATTERN, NAME_PATTERN, TARGET_PATTERN


def one_of(*choices: str) -> Meta:
    """Return the bound of a text with these allowed values."""
    return Meta(pattern=rf"\A(?:{'|'.join(map(re.escape, choices))})\Z", description=f"one of {', '.join(choices)}")


# --- numbers --------------------------------------------------------------------------------------
Count = Annotated[int, Meta(ge=0, le=limits.NOW_MS_MAX)]
Positive = Annotated[int, Meta(ge=1, le=limits.NOW_MS_MAX)]
Priority = Annotated[int, Meta(ge=limits.PRIORITY_MIN, le=limits.PRIORITY_MAX)]
Fuel = Annotated[int, Meta(ge=0, le=limits.FUEL_MAX)]
Window = Annotated[int, Meta(ge=1, le=limits.WINDOW_TASKS_MAX)]
GrowthBytes = Annotated[int, Meta(ge=0, le=limits.GROWTH_BYTES_MAX)]
StateBytes = Annotated[int, Meta(ge=0, le=limits.MESSAGE_BYTES_MAX)]
EmitsMax = Annotated[int, Meta(ge=0, le=limits.EMITS_MAX)]
Counts = Annotated[tuple[Count, ...], Meta(max_length=limits.RUN_TASKS_MAX)]  # one per task, or per assignment
Pid = Annotated[int, Meta(ge=0, le=limits.PID_MAX)]
Index = Annotated[int, Meta(ge=0, le=limits.RUN_TASKS_MAX - 1)]  # of a task in its row

# --- text and bytes -------------------------------------------------------------------------------
Name = Annotated[
    str,
    Meta(
        max_length=limits.NAME_CHARS_MAX,
        pattern=NAME_PATTERN,
        description=f"a name of letters, digits, _ . - (at most {limits.NAME_CHARS_MAX})",
    ),
]
CodeName = Annotated[str, Meta(pattern=CODE_NAME_PATTERN, description="a name, model:NAME or model:NAME@VERSION")]
Target = Annotated[
    str, Meta(pattern=TARGET_PATTERN, description="a target (name/key, name, model:NAME or model:NAME@VERSION)")
]
Producer = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Text32 = Annotated[str, Meta(max_length=32)]
Text64 = Annotated[str, Meta(max_length=64)]
Text256 = Annotated[str, Meta(max_length=256)]
WorkerName = Annotated[str, Meta(max_length=128)]
Text512 = Annotated[str, Meta(max_length=512)]
Text = Annotated[str, Meta(max_length=limits.MESSAGE_BYTES_MAX)]
PieceText = Annotated[str, Meta(max_length=limits.STREAM_PIECE_CHARS_MAX)]
LogLine = Annotated[str, Meta(max_length=limits.PAYLOAD_BYTES_MAX)]
FailureText = Annotated[str, Meta(max_length=limits.MESSAGE_CHARS_MAX)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32, description="a digest of 32 bytes")]
Blob = Annotated[bytes, Meta(max_length=limits.MESSAGE_BYTES_MAX)]
Payload = Annotated[
    bytes,
    Meta(
        max_length=limits.PAYLOAD_BYTES_MAX,
        description=f"at most {limits.PAYLOAD_BYTES_MAX} bytes; send more as tensors",
    ),
]
Content = Annotated[bytes, Meta(max_length=limits.MODULE_BYTES_MAX)]  # a module, component or bundle
PayloadLength = Annotated[
    int,
    Meta(
        ge=0,
        le=limits.PAYLOAD_BYTES_MAX,
        description=f"payloads of at most {limits.PAYLOAD_BYTES_MAX} bytes; send more as tensors",
    ),
]
ResultLength = Annotated[int, Meta(ge=0, le=limits.MESSAGE_BYTES_MAX)]

# --- values without a schema ----------------------------------------------------------------------
# Plain values: nil, bool, integer, float, text, bytes, and lists and maps of them; `shape.check_plain` checks them.
Plain = Annotated[Any, Meta(extra={"plain": True})]
PlainMap = Annotated[dict[str, Any], Meta(extra={"plain": True})]
