"""The words that every process of Rota shares: messages, wire, errors, limits, digests. All of it is PURE."""
