"""What items cost: `price/chairs` tells it for a number of chairs."""

from rota.agent import Context

EUROS = {"chairs": 40, "tables": 120}


def agent(ctx: Context) -> None:
    item = ctx.message.address.partition("/")[2]
    if item not in EUROS:
        ctx.fail("no_such_item", item)
    ctx.reply(f"{EUROS[item] * int(ctx.message.text)} euros")
