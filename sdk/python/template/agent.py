"""The agent NAME: counts its messages, and replies how many there were."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    """Take one message. What ctx is told to do takes place when this returns, all of it or none."""
    ctx.state = (ctx.state or 0) + 1
    ctx.log(f"message {ctx.state} from {ctx.message.sender or 'outside'}")
    ctx.reply(f"{ctx.message.text}: {ctx.state}")
