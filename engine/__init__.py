"""The core with real executors and no sockets: what lanes in one process and the proof are built on."""
