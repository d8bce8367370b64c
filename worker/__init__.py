"""What both kinds of worker share: the session with the broker, the loop around it, what an executor must offer."""
