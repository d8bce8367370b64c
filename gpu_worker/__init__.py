"""The GPU worker: runs ONNX models. `executor` runs folds, `repository` keeps the models, `__main__` is the process."""

import os

from rota.gpu_worker.provider_table import ENVIRONMENT

# Before the first import of onnxruntime, whose libraries read them once.
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
