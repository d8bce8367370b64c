"""Definitions shared by all processes: messages, wire, errors, limits, digests. All of it is PURE."""
