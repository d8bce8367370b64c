"""Access to the host, for every process: settings, sockets, signals, files, folders, other processes."""
