/** two_step: asks one agent, asks another with its answer, and keeps both and answers with them. */
import { Context, Value } from "rota";

export function agent(ctx: Context): void {
  const message = ctx.message, step = ctx.state.get("step").int(0), turn: u64 = ctx.state.get("turn").int(0);
  if (message.kind == "failure") {
    const failure = message.value;
    ctx.settleFailure(turn, `step_${step}`, `${failure.at(0).text()}: ${failure.at(1).text()}`);
  } else if (message.kind != "reply") {
    ctx.state = Value.map().set("step", 1).set("turn", ctx.postpone());
    ctx.ask("echo/two_step", message.payload);
  } else if (step == 1) {
    ctx.state = Value.map().set("step", 2).set("turn", turn).set("first", message.text);
    ctx.ask("counter/two_step", message.payload);
  } else {
    ctx.state = Value.map().set("step", 3).set("first", ctx.state.get("first")).set("second", message.text);
    ctx.settle(turn, ctx.state);
  }
}
