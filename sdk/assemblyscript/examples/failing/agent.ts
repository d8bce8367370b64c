/** failing: fails as its payload says, "fail", "crash", "deep" or "spin"; else it replies the payload. */
import { Context } from "rota";

function deep(depth: i32): string {
  return deep(depth + 1) + depth.toString();
}

export function agent(ctx: Context): void {
  const what = ctx.message.text;
  if (["fail", "crash", "deep", "spin"].includes(what)) ctx.log("before it");
  if (what == "fail") ctx.fail("asked_to_fail", "the payload said so");
  else if (what == "crash") throw new Error("crashed");
  else if (what == "deep") ctx.reply(deep(0));
  else if (what == "spin") while (true) {}
  else ctx.reply(what);
}
