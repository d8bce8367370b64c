"""A deterministic WASI preview 1: files, streams, clock and chance of one task, all in memory."""
