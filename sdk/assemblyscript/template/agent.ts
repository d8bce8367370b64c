/** The agent NAME: counts its messages, and replies how many there were. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const count = ctx.state.int(0) + 1;
  ctx.state = Value.of(count);
  ctx.log(`message ${count}`);
  ctx.reply(`${ctx.message.text}: ${count}`);
}
