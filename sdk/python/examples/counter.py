"""Counts its messages in its state."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    ctx.state = (ctx.state or 0) + 1
    ctx.reply(str(ctx.state))
