"""The facts of processor and GPU that can change the bits of a result. Complete on Linux, partial elsewhere.

Kernels dispatch on instruction sets, and some choose their tile size by the L2 cache, so another processor is another
fingerprint. An unknown fact is an empty text, never a guess.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_CPUINFO: Final = Path("/proc/cpuinfo")
_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_DRIVER: Final = Path("/proc/driver/nvidia/version")
_AMD_DRIVER: Final = Path("/sys/module/amdgpu/version")
_ROCM: Final = Path("/opt/rocm/.info/version")

# The flags that numeric kernels test; a Linux update may add others that none does.
_VECTOR_FLAG: Final = re.compile(r"(sse|ssse|avx|fma|f16c|amx|neon|asimd|sve|sme|i8mm|bf16|fphp|dotprod|bmi)")

# CUdevice_attribute, https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_MULTIPROCESSOR_COUNT: Final = 16
_COMPUTE_CAPABILITY_MAJOR: Final = 75
_COMPUTE_CAPABILITY_MINOR: Final = 76


def processor_facts() -> dict[str, str]:
    """Return vendor, family, model, vector instruction sets and L2 size of the processor."""
    facts = _cpuinfo()
    flags = facts.get("flags", "") or facts.get("Features", "")
    return {
        "machine": platform.machine(),
        "vendor": facts.get("vendor_id", "") or facts.get("CPU implementer", ""),
        "family": facts.get("cpu family", "") or facts.get("CPU architecture", ""),
        "model": facts.get("model", "") or facts.get("CPU part", ""),
        "name": facts.get("model name", "") or platform.processor(),
        "vector_flags": " ".join(sorted(flag for flag in flags.split() if _VECTOR_FLAG.match(flag))),
        "l2": _level_2_size(),
    }


def device_facts(provider: str) -> dict[str, str]:
    """Return the facts of the device that a provider computes on; empty for the CPU."""
    if provider in ("cuda", "tensorrt"):
        return gpu_facts()
    if provider == "migraphx":
        return {"driver": _read(_AMD_DRIVER), "rocm": _read(_ROCM)}
    # The parts of these systems that compute are not versioned alone.
    return {} if provider == "cpu" else {"system": platform.system(), "version": platform.version()}


def gpu_facts() -> dict[str, str]:
    """Return name, compute capability, multiprocessors and library versions of the first GPU; empty without one."""
    driver = _library("libcuda.so.1", "nvcuda.dll")
    if driver is None or driver.cuInit(0) != 0:
        return {}
    device = ctypes.c_int()
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return {}
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    attribute = _attribute_reader(driver, device)
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{attribute(_COMPUTE_CAPABILITY_MAJOR)}.{attribute(_COMPUTE_CAPABILITY_MINOR)}",
        "multiprocessors": str(attribute(_MULTIPROCESSOR_COUNT)),
        "driver": _driver_version(),
        "cuda": _number(driver, "cuDriverGetVersion"),
        "cudnn": _cudnn_version(),
        "cublas": _cublas_version(),
    }


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor."""
    text = _read(_CPUINFO).split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _level_2_size() -> str:
    for index in range(8):
        cache = _CACHES / f"index{index}"
        if _read(cache / "level") == "2":
            return _read(cache / "size")
    return ""


def _read(path: Path) -> str:
    """Return the content of a system file; empty if it is missing, as in some containers and on other systems."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _library(*names: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _attribute_reader(driver: Any, device: ctypes.c_int) -> Callable[[int], int]:
    def read(attribute: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        return value.value

    return read


def _number(library: Any, function: str) -> str:
    value = ctypes.c_int()
    return str(value.value) if getattr(library, function)(ctypes.byref(value)) == 0 else ""


def _driver_version() -> str:
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _read(_DRIVER))
    return found[1] if found else ""


def _cudnn_version() -> str:
    """Return the version of the cuDNN that the session has loaded."""
    library = _library("libcudnn.so.9", "cudnn64_9.dll")
    if library is None:
        return ""
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return str(library.cudnnGetVersion())


def _cublas_version() -> str:
    """Return the version of the cuBLAS that the session has loaded."""
    library = _library("libcublas.so.13", "cublas64_13.dll")
    value, parts = ctypes.c_int(), []
    for part in range(3):  # libraryPropertyType: major, minor, patch
        if library is None or library.cublasGetProperty(part, ctypes.byref(value)) != 0:
            return ""
        parts.append(str(value.value))
    return ".".join(parts)
