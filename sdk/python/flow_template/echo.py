"""An agent that replies what it gets."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    ctx.reply(ctx.message.payload)
