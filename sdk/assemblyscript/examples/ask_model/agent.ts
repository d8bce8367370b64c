/** ask_model: asks a language model, and answers with its text when that comes. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const message = ctx.message;
  if (message.kind == "reply") {
    ctx.settle(message.replyTo!.askedIn, message.value.get("generate").get("text"));
  } else if (message.kind == "failure") {
    const failure = message.value;
    ctx.settleFailure(message.replyTo!.askedIn, failure.at(0).text(), failure.at(1).text());
  } else {
    const messages = Value.list().add(Value.map().set("role", "user").set("content", message.text));
    ctx.ask("model:smollm2", Value.map().set("generate", Value.map().set("max_tokens", 64).set("messages", messages)));
    ctx.postpone();
  }
}
