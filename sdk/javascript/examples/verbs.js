// Uses every verb.

export function agent(ctx) {
  const message = ctx.message;
  ctx.log(`${message.kind} from ${message.sender ?? "outside"}`);
  if (message.kind !== "tell" && message.kind !== "ask") {
    ctx.reply(message.payload);
    return;
  }
  const before = ctx.state;
  ctx.state = message.value;
  ctx.emit("log/main", message.value, { priority: -3, tensors: message.tensors });
  const asked = ctx.ask("echo/x", [message.turn, message.now_ms, message.address], { priority: 7 });
  ctx.timer(250, "again");
  ctx.reply({ asked, entropy: message.entropy, state: before });
}
