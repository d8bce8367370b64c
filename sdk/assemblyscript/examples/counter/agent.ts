/** counter: counts its messages. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const count = ctx.state.int(0) + 1;
  ctx.state = Value.of(count);
  ctx.reply(count.toString());
}
