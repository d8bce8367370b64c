"""Runtimes: interpreters that run sources as agents. The catalog, fetching them, their drivers, bundles of sources."""
