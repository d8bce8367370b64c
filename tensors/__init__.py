"""Arrays between processes: the file format, the store of sealed files, values and payloads that hold arrays."""
