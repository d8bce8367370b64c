"""An agent that runs the programs that it is sent: deploy this file, and send maps of docs/RUNTIMES.md."""

from rota.agent.program import agent

__all__ = ["agent"]
