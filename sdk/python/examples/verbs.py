"""Uses every verb once: a priority, a timer, a log line, tensors, and any value as state."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    message = ctx.message
    ctx.log(f"{message.kind} from {message.sender or 'outside'}")
    if message.kind not in ("tell", "ask"):
        ctx.reply(message.payload)
        return
    before, ctx.state = ctx.state, message.value
    ctx.emit("log/main", message.value, priority=-3, tensors=message.tensors)
    asked = ctx.ask("echo/x", [message.turn, message.now_ms, message.address], priority=7)
    ctx.timer(250, "again")
    ctx.reply({"asked": asked, "entropy": message.entropy, "state": before})
