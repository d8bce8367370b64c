// The flow NAME: asks two agents at once and puts their answers together.

import { AskFailed, type FlowContext } from "rota";

/** Take one call. What is awaited may take days: the call waits in the lane, and no worker holds it meanwhile. */
export async function flow(ctx: FlowContext): Promise<string> {
  const { text } = ctx.message;
  const [first, second] = await Promise.all([ctx.ask("echo/a", `${text}, first`), ctx.ask("echo/b", `${text}, second`)]);
  let third: string;
  try {
    third = (await ctx.ask("nobody", text, { deadline_ms: 5_000 })).text;
  } catch (error) {
    if (!(error instanceof AskFailed)) throw error;
    third = error.kind;
  }
  ctx.log(`asked three for ${ctx.message.sender ?? "somebody outside"}`);
  return `${first.text}; ${second.text}; ${third}`;
}
