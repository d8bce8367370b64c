"""The GPU worker: runs ONNX models. `executor` runs folds, `repository` keeps the models, `__main__` is the process."""

import os

# Before the first import of onnxruntime: its wheels, on Linux too, open a telemetry store in the temporary folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
