/** desk: answers later: asks another agent and settles, keeps a task for a later message, or hands it on. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const message = ctx.message, waiting: u64 = ctx.state.int(0);
  const text = message.replyTo === null ? message.text : "", tensors = message.tensorIndices;
  if (message.kind == "reply") { // asked in the turn that was postponed
    ctx.settle(message.replyTo!.askedIn, message.payload, tensors);
  } else if (message.kind == "failure") {
    const failure = message.value;
    ctx.settleFailure(message.replyTo!.askedIn, failure.at(0).text(), failure.at(1).text());
  } else if (text == "wait") {
    ctx.state = Value.of(ctx.postpone());
  } else if (text == "answer") {
    ctx.settle(waiting, Value.map().set("waited", waiting));
    ctx.state = new Value();
    ctx.reply("answered");
  } else if (text == "refuse") {
    ctx.settleFailure(waiting, "refused", "the desk is closed");
    ctx.state = new Value();
  } else if (text == "pass") {
    ctx.handOn("echo/y", Value.list().add(waiting), waiting, 3, [], 60_000);
    ctx.state = new Value();
  } else if (text == "transfer") {
    ctx.handOn("echo/x", message.payload, 0, 0, tensors);
  } else {
    ctx.ask("echo/x", message.payload, 0, tensors, 30_000);
    ctx.postpone();
  }
}
