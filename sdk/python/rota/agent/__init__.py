"""Write an agent or a flow in Python: what a handler gets, and its types. docs/SDK.md tells how.

    def agent(ctx):
        ctx.state = (ctx.state or 0) + 1
        ctx.reply(str(ctx.state))

    async def flow(ctx):
        answer = await ctx.ask("planner", ctx.message.payload)
        return answer.text

The same package is in the sandbox and on the host, where an editor reads its types and `rota.agent.testing` calls
handlers without a sandbox.
"""

from rota.agent.context import Context, Message, ReplyTo
from rota.agent.flow import Answer, AskFailed, FlowContext
from rota.agent.messagepack import pack, unpack
from rota.agent.model_calls import Generated
from rota.agent.tensors import Array, Tensor

__all__ = [
    "Answer",
    "Array",
    "AskFailed",
    "Context",
    "FlowContext",
    "Generated",
    "Message",
    "ReplyTo",
    "Tensor",
    "pack",
    "unpack",
]
