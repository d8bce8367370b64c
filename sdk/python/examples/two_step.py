"""Asks one agent, and another with the answer; its state says which answer it waits for, and whom it owes one."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    state, message = ctx.state, ctx.message
    if message.kind == "failure":
        kind, text = message.value
        ctx.settle_failure(state["turn"], f"step_{state['step']}", f"{kind}: {text}")
    elif message.kind != "reply":
        ctx.state = {"step": 1, "turn": ctx.postpone()}
        ctx.ask("echo/two_step", message.payload)
    elif state["step"] == 1:
        ctx.state = {"step": 2, "turn": state["turn"], "first": message.text}
        ctx.ask("counter/two_step", message.payload)
    else:
        ctx.state = {"step": 3, "first": state["first"], "second": message.text}
        ctx.settle(state["turn"], ctx.state)
