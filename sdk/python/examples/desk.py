"""Answers some messages later, itself or by somebody else."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    message = ctx.message
    if message.kind == "reply":  # asked in the turn that was postponed
        ctx.settle(message.reply_to.asked_in, message.payload, tensors=message.tensors)
    elif message.kind == "failure":
        kind, text = message.value
        ctx.settle_failure(message.reply_to.asked_in, kind, text)
    elif message.text == "wait":
        ctx.state = ctx.postpone()
    elif message.text == "answer":
        ctx.settle(ctx.state, {"waited": ctx.state})
        ctx.state = None
        ctx.reply("answered")
    elif message.text == "refuse":
        ctx.settle_failure(ctx.state, "refused", "the desk is closed")
        ctx.state = None
    elif message.text == "pass":
        ctx.hand_on("echo/y", [ctx.state], turn=ctx.state, priority=3, deadline_ms=60_000)
        ctx.state = None
    elif message.text == "transfer":
        ctx.hand_on("echo/x", message.payload, tensors=message.tensors)
    else:
        ctx.ask("echo/x", message.payload, tensors=message.tensors, deadline_ms=30_000)
        ctx.postpone()
