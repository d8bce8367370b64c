"""Asks a language model, and replies its text when the answer has come."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    if ctx.message.kind == "reply":
        ctx.reply(ctx.message.value["generate"]["text"])
    elif ctx.message.kind == "failure":
        kind, text = ctx.message.value
        ctx.reply(f"{kind}: {text}")
    else:
        messages = [{"role": "user", "content": ctx.message.text}]
        ctx.ask("model:smollm2", {"generate": {"max_tokens": 64, "messages": messages}})
        ctx.reply("asked")
