"""What is left of an item: `stock/chairs` counts chairs. A message takes some away."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    left = 10 if ctx.state is None else ctx.state
    wanted = int(ctx.message.text)
    if wanted > left:
        ctx.fail("sold_out", f"only {left} left")
    ctx.state = left - wanted
    ctx.reply(f"then {ctx.state} are left")
