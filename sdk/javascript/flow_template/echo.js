// An agent that replies what it gets.

/** @param {import("rota").Context} ctx */
export function agent(ctx) {
  ctx.reply(ctx.message.payload);
}
