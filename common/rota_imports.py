"""The functions that Rota offers to modules beside WASI, and their types. PURE.

cpu_worker/rota_calls.py implements them; docs/AGENTS.md says what each does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.common.wasm_binary import FuncType

OWN_MODULE: Final = "rota"

_I32, _I64 = "i32", "i64"

OWN_IMPORTS: Final[Mapping[str, FuncType]] = {
    "tensor_read": FuncType((_I32, _I64, _I32, _I32), (_I32,)),  # index, offset, ptr, len
    "tensor_new": FuncType((_I32,) * 6, (_I32,)),  # dtype_ptr, dtype_len, shape_ptr, rank, data_ptr, data_len
    "log": FuncType((_I32, _I32), ()),  # ptr, len
    "fail": FuncType((_I32,) * 4, ()),  # code_ptr, code_len, message_ptr, message_len
}
