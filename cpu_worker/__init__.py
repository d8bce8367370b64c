"""The CPU worker: runs WASM agents and functions. `executor.WasmExecutor` is the sandbox, `__main__` the process."""
