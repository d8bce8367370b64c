"""Proof: run files are read, executed again and compared. Nothing here needs a running broker."""
