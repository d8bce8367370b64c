// Replies with what came.

export function agent(ctx) {
  ctx.reply(ctx.message.payload, { tensors: ctx.message.tensors });
}
