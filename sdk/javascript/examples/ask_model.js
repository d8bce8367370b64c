// Asks a language model, and replies its answer.

export function agent(ctx) {
  if (ctx.message.kind === "reply") {
    ctx.reply(ctx.message.value.generate.text);
  } else if (ctx.message.kind === "failure") {
    const [kind, text] = ctx.message.value;
    ctx.reply(`${kind}: ${text}`);
  } else {
    const messages = [{ role: "user", content: ctx.message.text }];
    ctx.ask("model:smollm2", { generate: { max_tokens: 64, messages } });
    ctx.reply("asked");
  }
}
