"""Arrays between processes: the file format, the store, and values and payloads with arrays."""
