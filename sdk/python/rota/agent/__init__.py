"""Write an agent in Python: what a handler gets, and its types. docs/SDK.md tells how.

    def agent(ctx):
        ctx.state = (ctx.state or 0) + 1
        ctx.reply(str(ctx.state))

The same package is in the sandbox and on the host, where an editor reads its types and `rota.agent.testing` calls
handlers without a sandbox.
"""

from rota.agent.context import Context, Message, ReplyTo
from rota.agent.messagepack import pack, unpack
from rota.agent.tensors import Tensor

__all__ = ["Context", "Message", "ReplyTo", "Tensor", "pack", "unpack"]
