"""Fails in the way that the payload names, or replies it."""

from rota.agent import Context


def deep(n: int) -> int:
    return deep(n + 1) + 1


def agent(ctx: Context) -> None:
    what = ctx.message.text
    if what in ("fail", "crash", "deep", "spin"):
        ctx.log("before it")
    if what == "fail":
        ctx.fail("asked_to_fail", "the payload said so")
    elif what == "crash":
        raise ValueError("crashed")
    elif what == "deep":
        deep(0)
    elif what == "spin":
        while True:
            pass
    else:
        ctx.reply(what)
