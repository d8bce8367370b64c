"""Code shared by both kinds of worker: the session with the broker, the loop around it, the executor interface."""
