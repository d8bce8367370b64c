"""The GPU worker: runs ONNX models. `executor` runs folds, `repository` keeps the models, `__main__` is the process."""
