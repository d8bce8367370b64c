// Asks a language model, and answers with its text when that comes.

export function agent(ctx) {
  const { message } = ctx;
  if (message.kind === "reply") {
    ctx.settle(message.reply_to.asked_in, message.value.generate.text);
  } else if (message.kind === "failure") {
    const [kind, text] = message.value;
    ctx.settleFailure(message.reply_to.asked_in, kind, text);
  } else {
    const messages = [{ role: "user", content: message.text }];
    ctx.ask("model:smollm2", { generate: { max_tokens: 64, messages } });
    ctx.postpone();
  }
}
