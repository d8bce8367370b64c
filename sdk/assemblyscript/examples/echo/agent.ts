/** echo: the smallest agent. It replies the payload and the tensors as they came. */
import { Context } from "rota";

export function agent(ctx: Context): void {
  ctx.reply(ctx.message.payload, ctx.message.tensorIndices);
}
