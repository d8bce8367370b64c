"""Asks a language model, and answers with its text when that comes."""

from rota.agent import Context


def agent(ctx: Context) -> None:
    message = ctx.message
    if message.kind == "reply":
        ctx.settle(message.reply_to.asked_in, message.value["generate"]["text"])
    elif message.kind == "failure":
        kind, text = message.value
        ctx.settle_failure(message.reply_to.asked_in, kind, text)
    else:
        messages = [{"role": "user", "content": message.text}]
        ctx.ask("model:smollm2", {"generate": {"max_tokens": 64, "messages": messages}})
        ctx.postpone()
