/** verbs: what the other examples leave out: priority, timer, log, tensors, any value as state. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const message = ctx.message, sender = message.sender;
  ctx.log(`${message.kind} from ${sender === null ? "outside" : sender}`);
  if (message.kind != "tell" && message.kind != "ask") {
    ctx.reply(message.payload);
    return;
  }
  const before = ctx.state, value = message.value;
  ctx.state = value;
  ctx.emit("log/main", value, -3, message.tensorIndices);
  const about = Value.list().add(message.turn).add(message.nowMs).add(message.address);
  const asked = ctx.ask("echo/x", about, 7);
  ctx.timer(250, "again");
  ctx.reply(Value.map().set("asked", asked).set("entropy", message.entropy).set("state", before));
}
