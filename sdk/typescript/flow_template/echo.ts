// An agent that replies what it gets.

import type { Context } from "rota";

export function agent(ctx: Context): void {
  ctx.reply(ctx.message.payload);
}
