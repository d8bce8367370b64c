"""The core with real executors and no sockets, used by local/ and proof/."""
