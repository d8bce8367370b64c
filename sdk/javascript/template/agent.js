// The agent NAME: counts its messages, and replies how many there were.

/**
 * Take one message. What ctx is told to do takes place when this is done, all of it or none.
 * @param {import("rota").Context<number>} ctx
 */
export function agent(ctx) {
  ctx.state = (ctx.state ?? 0) + 1;
  ctx.log(`message ${ctx.state} from ${ctx.message.sender ?? "outside"}`);
  ctx.reply(`${ctx.message.text}: ${ctx.state}`);
}
