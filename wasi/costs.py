"""What host functions cost in units of fuel, so that fuel bounds the work of the host as it bounds a guest's. PURE.

One unit is about an instruction of a guest, half a nanosecond to two. These numbers are part of what a task's fuel
means: with another number here, ABI_VERSION of cpu_worker/profile.py changes.
"""

from __future__ import annotations

from typing import Final

CALL_FUEL: Final = 2_000  # each call: about as long as the host needs for one that does little
BYTE_FUEL: Final = 1  # each byte that is copied, cleared or generated, as in `memory.copy`
ANSWER_BYTES_FREE: Final = 65_536  # of what a call returns; each byte more costs BYTE_FUEL
VECTOR_FUEL: Final = 200  # each buffer of a scattered read or write
NAME_FUEL: Final = 500  # each name of a path that is followed, those in symbolic links too
ENTRY_FUEL: Final = 100  # each entry of a folder that is looked at
EVENT_FUEL: Final = 500  # each subscription of `poll_oneoff`
NODE_BYTES: Final = 1_024  # that a file, folder or link counts, beside its data and name, against the task's memory
