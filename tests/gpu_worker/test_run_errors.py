"""What errors of ONNX Runtime mean, by their texts. The CPU's are real, those of devices are built as it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from rota.gpu_worker.run_errors import meaning_of, plain_text

NODE = "Error in execution: Non-zero status code returned while running MatMul node. Name:'/a/b' Status Message: "
THROWN = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, "
    "const char*, int) [with ERRTYPE = cudaError; bool THRW = true] "
)
DETAILS = (
    " ; GPU=0 ; hostname=somewhere ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc ; line=77 ; "
    "expr=cudaStreamSynchronize(static_cast<cudaStream_t>(GetHandle())); \n"
)

# What it says, what it means on CUDA, and the plain message.
CASES = {
    "illegal address": (f"CUDA failure 700: an illegal memory access was encountered{DETAILS}", "device"),
    "launch failure": (f"CUDA failure 719: unspecified launch failure{DETAILS}", "device"),
    "ECC": (f"CUDA failure 214: uncorrectable ECC error encountered{DETAILS}", "device"),
    "assert": (f"CUDA failure 710: device-side assert triggered{DETAILS}", "device"),
    "misaligned": (f"CUDA failure 716: misaligned address{DETAILS}", "device"),
    "unknown": (f"CUDA failure 999: unknown error{DETAILS}", "device"),
    "gone": (f"CUDA failure 46: CUDA-capable device(s) is/are busy or unavailable{DETAILS}", "device"),
    "HIP": (f"HIP failure 700: hipErrorIllegalAddress{DETAILS}", "device"),
    "cuBLAS": (f"CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED{DETAILS}", "device"),
    "cuDNN": (f"CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED{DETAILS}", "device"),
    "memory": (f"CUDA failure 2: out of memory{DETAILS}", "memory"),
    "cuBLAS memory": (f"CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED{DETAILS}", "memory"),
    "cuBLAS value": (f"CUBLAS failure 7: CUBLAS_STATUS_INVALID_VALUE{DETAILS}", "fault"),
    "launch": (f"CUDA failure 98: invalid device function{DETAILS}", "fault"),
}


@pytest.mark.parametrize("thrown", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_errors_of_a_device(case: str, thrown: bool) -> None:
    """Goal: a lost device, no memory and other faults are told apart, and the host's name does not enter an outcome."""
    message, meaning = CASES[case]
    text = plain_text(NODE + (THROWN if thrown else "") + message)
    assert text == (NODE + message.replace(DETAILS, "")).removeprefix("Error in execution: ")
    assert meaning_of(text, "cuda") == meaning


def test_a_direct_ml_device_that_was_removed() -> None:
    """Goal: DirectML's way to say it is known too."""
    said = "the GPU device instance has been suspended. Use GetDeviceRemovedReason. 887A0005"
    windows = r"D:\a\_work\1\s\onnxruntime\core\providers\dml\DmlExecutionProvider\src\DmlCommandRecorder.cpp:371 "
    text = plain_text(f"{NODE}{windows}onnxruntime::Dml::Foo {said}")
    assert meaning_of(text, "directml") == "device"
    assert "_work" not in text


def test_a_node_cannot_be_named_so_that_it_ends_the_worker() -> None:
    """Goal: the names in a model do not decide what an error means. Method: a node named like a lost device."""
    for name in ("CUDA failure 700: x", "x' Status Message: CUDA failure 700: an illegal memory access"):
        text = plain_text(NODE.replace("/a/b", name) + "indices element out of data bounds, idx=9")
        assert meaning_of(text, "cuda") == "input"


def test_the_cpu_has_no_device_to_lose() -> None:
    """Goal: a message of a kernel on the CPU never ends a worker, whatever it says."""
    assert meaning_of(plain_text(f"{NODE}CUDA failure 700: x"), "cpu") != "device"


def test_conditions_and_signatures_are_removed() -> None:
    """Goal: outcomes say what the library means, without the files, functions and conditions of its build."""
    reshape = (
        "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:84 "
        "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, "
        "bool) size != 0 && (input_shape_size % size) == 0 was false. The input tensor cannot be reshaped to the "
        "requested shape. Input shape:{2,3}, requested shape:{4,-1}\n"
    )
    assert plain_text(reshape).startswith("The input tensor cannot be reshaped to the requested shape. Input shape:{2")
    assert plain_text("a.h:59 Compute MatMul dimension mismatch") == "MatMul dimension mismatch"
    assert plain_text("x/arena.cc:3 void* onnxruntime::A::B(size_t, C<int>*) const Failed to allocate") == (
        "Failed to allocate"
    )
    assert plain_text("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /a/b.onnx failed:Protobuf x") == (
        "Protobuf x"
    )
    assert plain_text("idx=5 must be within [-4,3]: see model.cc") == "idx=5 must be within [-4,3]: see model.cc"


WRONG = {
    "reshape": ([helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": np.ones((2, 3), np.float32)}),
    "broadcast": ([helper.make_node("Add", ["x", "w"], ["y"])], {"x": np.ones((2, 3), np.float32)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_outcomes_do_not_name_the_files_of_the_library(bench: Any, kit: Any, wrong: str) -> None:
    """Goal: a `bad_input` of a real kernel is a sentence. Method: shapes that no kernel takes, through the executor."""
    nodes, feeds = WRONG[wrong]
    weights = {"s": np.array([4, -1]), "w": np.ones(4, np.float32)}
    used = {name: weights[name] for node in nodes for name in node.input if name in weights}
    shapes = [("x", "float32", ["a", "b"])], [("y", "float32", ["c", "d"])]
    code = bench.add(lambda path: kit.build(path, nodes, *shapes, used))
    (outcome,) = bench.run(code, kit.call(**feeds)).outcomes
    assert outcome.kind == "bad_input"
    assert "onnxruntime" not in outcome.message
    assert ".h:" not in outcome.message
    assert "was false" not in outcome.message
