"""A flow: asks two agents and a model at once, takes the first of two desks, and tries a third if that fails."""

import asyncio

from rota.agent import AskFailed, FlowContext


async def flow(ctx: FlowContext) -> None:
    city = ctx.message.text
    ctx.log(f"a trip to {city}")
    weather, hotel, plan = await asyncio.gather(
        ctx.ask("weather/today", city),
        ctx.ask("hotel/best", {"city": city, "nights": 2}, priority=2, deadline_ms=30_000),
        ctx.ask("model:smollm2", {"generate": {"max_tokens": 32, "prompt": f"A day in {city}:"}}),
    )
    ctx.emit("log/main", ["found", hotel.text])
    desks = [ctx.ask(f"booking/{desk}", hotel.payload, tensors=hotel.tensors) for desk in ("a", "b")]
    try:
        booked = await next(asyncio.as_completed(desks))  # the first that answers
    except AskFailed as failed:
        await ctx.sleep(250)
        booked = await ctx.ask("booking/c", [failed.kind, failed.message])
    found = {"weather": weather.text, "plan": plan.value["generate"]["text"], "booked": booked.value}
    ctx.reply(found, tensors=ctx.message.tensors)
