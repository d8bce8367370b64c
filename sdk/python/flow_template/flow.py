"""The flow NAME: asks two agents at once and puts their answers together."""

import asyncio

from rota.agent import AskFailed, FlowContext


async def flow(ctx: FlowContext) -> str:
    """Take one call. What is awaited may take days: the call waits in the lane, and no worker holds it meanwhile."""
    text = ctx.message.text
    first, second = await asyncio.gather(ctx.ask("echo/a", f"{text}, first"), ctx.ask("echo/b", f"{text}, second"))
    try:
        third = (await ctx.ask("nobody", text, deadline_ms=5_000)).text
    except AskFailed as failed:
        third = failed.kind
    ctx.log(f"asked three for {ctx.message.sender or 'somebody outside'}")
    return f"{first.text}; {second.text}; {third}"
