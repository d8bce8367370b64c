"""The execution providers of ONNX Runtime that Rota knows, with their options, environment and packages. PURE.

Every option that decides bits is set, so that a change of the library's defaults changes none: each is in the
fingerprint. The automatic choice is CUDA, then the CPU; the others run only where a user names them, since nobody has
measured their bits. What was read about each, and that nothing of it was measured on a device: docs/MODELS.md,
"Providers". A new provider is a row of PROVIDERS and of the table there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Require = Literal["auto", "cuda", "tensorrt", "directml", "coreml", "migraphx", "cpu"]

CPU: Final = "CPUExecutionProvider"
AUTOMATIC: Final = "cuda"  # what a worker tries that was not told

# Set before the library is loaded, unless the user has set them.
ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",  # the wheels, on Linux too, open a telemetry store in the temporary folder
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",  # too small for split-k, whose split depends on the shape of the batch
    "NVIDIA_TF32_OVERRIDE": "0",  # for the libraries that `use_tf32` does not reach
    "ORT_CUDA_GEMM_AUTO_TUNE": "0",  # would choose kernels by timing
}


class Provider(NamedTuple):
    """A provider. `runtime_name` is that of ONNX Runtime; `package` says how to get it.

    `devices`: the variable that says which devices a process sees; empty if there is none, then only device 0 can be
    used. `beside`: a provider that takes the nodes this one cannot, in strict sessions too.
    """

    title: str
    runtime_name: str
    options: Mapping[str, str]
    package: str
    devices: str = ""
    beside: str = ""


_CUDA_OPTIONS: Final = {
    "device_id": "0",  # other devices are hidden from the process
    "cudnn_conv_algo_search": "DEFAULT",  # EXHAUSTIVE chooses by timing, so not deterministically
    "use_tf32": "0",
    "tunable_op_enable": "0",  # would choose kernels by timing
    "tunable_op_tuning_enable": "0",
    "do_copy_in_default_stream": "1",
    "use_ep_level_unified_stream": "1",  # cuBLAS is deterministic only with one active stream
    "arena_extend_strategy": "kSameAsRequested",
}
_TENSORRT_OPTIONS: Final = {
    "device_id": "0",
    "trt_fp16_enable": "0",
    "trt_bf16_enable": "0",
    "trt_int8_enable": "0",
    "trt_builder_optimization_level": "0",  # takes the first tactic that works; the other levels choose by timing
    "trt_build_heuristics_enable": "0",
    "trt_sparsity_enable": "0",
    "trt_engine_cache_enable": "0",  # an engine of another build, or of another device, must not be found
    "trt_timing_cache_enable": "0",
    "trt_force_sequential_engine_build": "1",
}
_DIRECTML_OPTIONS: Final = {
    "device_id": "0",
    "disable_metacommands": "true",  # kernels of the driver: others after its update
}
_COREML_OPTIONS: Final = {
    "ModelFormat": "MLProgram",
    "MLComputeUnits": "CPUAndGPU",  # the Neural Engine computes in float16 only
    "RequireStaticInputShapes": "1",
    "EnableOnSubgraphs": "0",
    "AllowLowPrecisionAccumulationOnGPU": "0",
}
_MIGRAPHX_OPTIONS: Final = {
    "device_id": "0",
    "migraphx_fp16_enable": "0",
    "migraphx_int8_enable": "0",
    "migraphx_exhaustive_tune": "0",  # would choose kernels by timing
}

PROVIDERS: Final = {
    "cuda": Provider(
        "CUDA", "CUDAExecutionProvider", _CUDA_OPTIONS, "install onnxruntime-gpu", devices="CUDA_VISIBLE_DEVICES"
    ),
    "tensorrt": Provider(
        "TensorRT",
        "TensorrtExecutionProvider",
        _TENSORRT_OPTIONS,
        "install onnxruntime-gpu and NVIDIA's tensorrt",
        devices="CUDA_VISIBLE_DEVICES",
        beside="cuda",
    ),
    "directml": Provider("DirectML", "DmlExecutionProvider", _DIRECTML_OPTIONS, "install onnxruntime-directml"),
    "coreml": Provider("CoreML", "CoreMLExecutionProvider", _COREML_OPTIONS, "install onnxruntime on macOS"),
    "migraphx": Provider(
        "MIGraphX",
        "MIGraphXExecutionProvider",
        _MIGRAPHX_OPTIONS,
        "install a build of ONNX Runtime for ROCm",
        devices="HIP_VISIBLE_DEVICES",
    ),
}
NAMES: Final = ("auto", *PROVIDERS, "cpu")
