"""Rota in one process: the core with real executors and no sockets, for tests of agents and for notebooks."""
