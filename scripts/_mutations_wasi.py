"""Faults in WASI and in the host's functions. For _mutations.py: the fields of its `Mutation`."""

from __future__ import annotations

from typing import Final

_FILES: Final = ("tests/wasi/test_files.py",)
_PROCESS: Final = ("tests/wasi/test_process.py",)
_COMMANDS: Final = ("tests/cpu_worker/test_commands.py",)

WASI_FAULTS: Final = (
    (
        "way-out-of-a-folder",
        "a descriptor of a folder gives no way out of it",
        "wasi/files.py",
        "                if len(way) == 1:\n                    raise Refusal(ENOTCAPABLE)\n",
        "                if len(way) == 1:\n                    continue\n",
        _FILES,
    ),
    (
        "shared-files-move",
        "what came with the deploy stays as it is",
        "wasi/files.py",
        "        if place.folder.has_shared(place.name):\n            raise Refusal(EROFS)\n",
        "",
        _FILES,
    ),
    (
        "files-without-bound",
        "files and guest memory together stay within memory_bytes",
        "wasi/files.py",
        "return self._memory_bytes - self.used_bytes - guest.memory_bytes()",
        "return self._memory_bytes - self.used_bytes",
        _FILES,
    ),
    (
        "copies-for-nothing",
        "the fuel of a host call grows with its work",
        "wasi/guest_access.py",
        "    guest.charge(size * BYTE_FUEL)\n\n\ndef vectors",
        "\n\ndef vectors",
        _FILES,
    ),
    (
        "clock-stands-still",
        "two reads of a clock differ",
        "wasi/process.py",
        "        self._elapsed_ns += CLOCK_STEP_NS\n",
        "",
        _PROCESS,
    ),
    (
        "chance-begins-again",
        "chance is one stream, in whatever portions it is taken",
        "wasi/process.py",
        "        self._chance_used += size\n",
        "",
        _PROCESS,
    ),
    (
        "spent-fuel-goes-on",
        "a host call that the fuel does not cover ends the task",
        "cpu_worker/raw_store.py",
        "        if left <= 0:\n            raise OutOfFuel\n",
        "",
        _COMMANDS,
    ),
    (
        "exit-codes-are-lost",
        "an exit code other than 0 is an error",
        "cpu_worker/sandbox.py",
        "            self.exit_code = ended.code\n",
        "            self.exit_code = 0\n",
        _COMMANDS,
    ),
)
