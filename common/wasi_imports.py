"""The functions of WASI preview 1 and their types. PURE.

The 46 functions of `wasi_snapshot_preview1`, as in the witx files of the specification
(https://github.com/WebAssembly/WASI/tree/wasi-0.1/preview1). Every one returns an errno, except `proc_exit`. The room
`wasi/` implements them; docs/WASI.md says what each does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.common.wasm_binary import FuncType

WASI_MODULE: Final = "wasi_snapshot_preview1"

# i: i32 (a pointer, length, descriptor or flags), I: i64 (a size, offset, time or rights).
_PARAMS: Final[Mapping[str, str]] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_get": "ii",
    "fd_prestat_dir_name": "iii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "sched_yield": "",
    "random_get": "ii",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
_TYPES: Final = {"i": "i32", "I": "i64"}

WASI_IMPORTS: Final[Mapping[str, FuncType]] = {
    name: FuncType(tuple([_TYPES[letter] for letter in params]), () if name == "proc_exit" else ("i32",))
    for name, params in _PARAMS.items()
}
