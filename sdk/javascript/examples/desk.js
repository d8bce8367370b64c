export function agent(ctx) {
  const { message } = ctx;
  const { tensors } = message;
  if (message.kind === "reply") { // asked in the turn that was postponed
    ctx.settle(message.reply_to.asked_in, message.payload, { tensors });
  } else if (message.kind === "failure") {
    const [kind, text] = message.value;
    ctx.settleFailure(message.reply_to.asked_in, kind, text);
  } else if (message.text === "wait") {
    ctx.state = ctx.postpone();
  } else if (message.text === "answer") {
    ctx.settle(ctx.state, { waited: ctx.state });
    ctx.state = null;
    ctx.reply("answered");
  } else if (message.text === "refuse") {
    ctx.settleFailure(ctx.state, "refused", "the desk is closed");
    ctx.state = null;
  } else if (message.text === "pass") {
    ctx.handOn("echo/y", [ctx.state], { turn: ctx.state, priority: 3, deadline_ms: 60_000 });
    ctx.state = null;
  } else if (message.text === "transfer") {
    ctx.handOn("echo/x", message.payload, { tensors });
  } else {
    ctx.ask("echo/x", message.payload, { tensors, deadline_ms: 30_000 });
    ctx.postpone();
  }
}
