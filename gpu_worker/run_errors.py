"""What an error of ONNX Runtime says and means: a bad input, no memory, a lost device, or another fault. PURE.

A run raises one type of error for all of these, so its text must tell them apart. The text holds the names of nodes,
which whoever made the model chose, so only the library's own message after them is looked at. Messages become outcomes,
and these must not depend on where the library was built or on the host: `plain_text` removes source files, C++
signatures, host names and the model's path.

The numbers are those of https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html. Errors of devices were
read in the library's source and not measured, since no GPU could be had.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Meaning = Literal["input", "memory", "device", "fault"]

_PREFIX: Final = re.compile(r"\A(?:\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Error in execution: )+")
_MODEL_PATH: Final = re.compile(r"Load model from .*? failed: ?")
_LOCATION: Final = re.compile(r"(?:[A-Za-z]:)?[\w./\\+-]+\.(?:h|hpp|inc|cc|cpp|cu|cuh):\d+ ")
_SIGNATURE: Final = re.compile(r"(?:[\w:*&<>, ]+ )?[\w:~<>]*::[\w~<>]+\(")  # as GCC and Clang write it
_SHORT_NAME: Final = re.compile(r"[\w:~]+ ")  # as MSVC does, or the plain name of a function
_QUALIFIERS: Final = re.compile(r"(?:::<lambda\([^)]*\)>| const| noexcept| &+| \[(?:with )?[^\]]*\])*\s*")
_CONDITION: Final = re.compile(r"[^.]*? was false\. ?")
_CUDA_DETAILS: Final = re.compile(r"( failure -?\d+: [^;]*?) ; GPU=.*")
_IR_VERSION: Final = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET: Final = re.compile(r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)")
_OPERATOR: Final = re.compile(r"No Op registered for (\S+) with domain_version of (\d+)")
_NO_MODEL: Final = re.compile(r"protobuf parsing failed|No graph was found", re.IGNORECASE)
_NODE_NAME_END: Final = "' Status Message: "

# Errors after which a CUDA context fails every call: "the process must be terminated and relaunched". HIP has the same
# numbers. 46, 100 and 101: no such device any more; 999: an unknown error, as after a reset of the device.
_LOST_NUMBERS: Final = frozenset(
    (4, 46, 100, 101, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 802, 999)
)
_FAILURE: Final = re.compile(r"(?:CUDA|HIP|ROCM) failure (-?\d+)")
_LOST_WORDS: Final = re.compile(
    r"CU(?:BLAS|DNN|FFT|RAND)\w* failure -?\d+: (?:CUBLAS|CUDNN)_STATUS_(?:EXECUTION_FAILED|MAPPING_ERROR)"
    r"|.*\b887A00(?:05|06|07|20)\b",  # DXGI: device removed, hung, reset, internal driver error
    re.IGNORECASE,
)
_MEMORY_WORDS: Final = re.compile(
    r"bad_alloc|ailed to allocate|not enough memory|out of memory|ALLOC_FAILED|smaller than requested bytes"
)
_DEVICE_WORDS: Final = re.compile(r"\b(?:CUDA|CUBLAS\w*|CUDNN\w*|CURAND|CUFFT|HIP|ROCM|DML|TensorRT|MIGraphX|CoreML)\b")
_INPUT_WORDS: Final = re.compile(r"while running \w+ node|shape|dimension|rank", re.IGNORECASE)


def plain_text(error: str) -> str:
    """Return an error's text in one line, without its prefix and without what depends on the build or the host."""
    text = _PREFIX.sub("", " ".join(error.split()))
    text = _CUDA_DETAILS.sub(r"\1", _MODEL_PATH.sub("", text))
    at = 0
    while found := _LOCATION.search(text, at):
        at = found.start()
        text = text[:at] + _without_function(text[found.end() :])
    return text.strip()


def meaning_of(text: str, provider: str) -> Meaning:
    """Return what an error of a run means, given its `plain_text` and the provider that ran it.

    "input": the call's input. "memory": host or device had too little. "device": no call in this process will succeed
    on the device any more. "fault": anything else.
    """
    message = text.rsplit(_NODE_NAME_END, 1)[-1]
    if says_no_memory(message):
        return "memory"
    if provider != "cpu":
        if is_device_lost(message):
            return "device"
        if _DEVICE_WORDS.search(message):
            return "fault"
    return "input" if _INPUT_WORDS.search(text) else "fault"


def says_no_memory(message: str) -> bool:
    """Return whether the library's own message, or ours, says that host or device refused memory."""
    return _MEMORY_WORDS.search(message) is not None


def is_device_lost(message: str) -> bool:
    """Return whether the library's own message says that the device is lost to this process."""
    found = _FAILURE.match(message)
    return int(found[1]) in _LOST_NUMBERS if found else _LOST_WORDS.match(message) is not None


def why_not_loaded(text: str, version: str) -> str:
    """Return why a model could not be loaded by this version of ONNX Runtime, with a remedy where one is known."""
    if found := _IR_VERSION.search(text):
        had, reads = found.groups()
        return (
            f"it was saved with IR version {had}, and ONNX Runtime {version} reads up to {reads}: "
            f"set model.ir_version = {reads} and save it again"
        )
    if found := _OPSET.search(text):
        had, domain, reads = found.groups()
        return (
            f"it needs opset {had} of {domain}, and ONNX Runtime {version} has up to {reads}: "
            f"export it for opset {reads} or lower"
        )
    if found := _OPERATOR.search(text):
        operator, opset = found.groups()
        return (
            f"ONNX Runtime {version} has no operator {operator} for opset {opset}: a misspelt name, or one of a "
            "library of custom operators, which Rota does not load"
        )
    if _NO_MODEL.search(text):
        return f"it is no ONNX file, or a damaged one ({text.rstrip('.')}): export or copy it again, then add it again"
    return text


def _without_function(text: str) -> str:
    """Return what follows a source location, without the function's name or signature and a failed condition."""
    if found := _SIGNATURE.match(text):
        text = text[_close(text, found.end()) :]
        text = text[_QUALIFIERS.match(text).end() :]  # type: ignore[union-attr]  # it matches an empty text too
    elif found := _SHORT_NAME.match(text):
        text = text[found.end() :]
    condition = _CONDITION.match(text)
    return text if condition is None else text[condition.end() :]


def _close(text: str, at: int) -> int:
    """Return the place after the parenthesis that closes the one before `at`."""
    depth = 1
    while at < len(text) and depth:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return at
