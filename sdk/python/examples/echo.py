"""Replies the payload and the tensors as they came."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    ctx.reply(ctx.message.payload, tensors=ctx.message.tensors)
