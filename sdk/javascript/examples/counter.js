// Counts its messages.

export function agent(ctx) {
  ctx.state = (ctx.state ?? 0) + 1;
  ctx.reply(String(ctx.state));
}
