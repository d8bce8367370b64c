"""Proof: runs are executed again and judged. Nothing here needs a running broker."""
