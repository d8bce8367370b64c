"""A quote for "3 chairs": asks two agents and a language model at once, and answers whoever asked."""

import asyncio

from rota.agent import FlowContext


async def flow(ctx: FlowContext) -> str:
    count, item = ctx.message.text.split()
    request = {"role": "user", "content": f"Describe {item} in one sentence."}
    stock, price, praise = await asyncio.gather(
        ctx.ask(f"stock/{item}", count),
        ctx.ask(f"price/{item}", count),
        ctx.generate("smollm2", messages=[request], max_tokens=60),
    )
    return f"{count} {item}: {price.text}, {stock.text}. {praise.text}"
