import { AskFailed, type Answer, type FlowContext } from "rota";

export async function flow(ctx: FlowContext): Promise<void> {
  const city: string = ctx.message.text;
  ctx.log(`a trip to ${city}`);
  const [weather, hotel, plan] = await Promise.all([
    ctx.ask("weather/today", city),
    ctx.ask("hotel/best", { city, nights: 2 }, { priority: 2, deadline_ms: 30_000 }),
    ctx.generate("smollm2", { max_tokens: 32, prompt: `A day in ${city}:` }),
  ]);
  ctx.emit("log/main", ["found", hotel.text]);
  const desks = ["a", "b"].map((desk) => ctx.ask(`booking/${desk}`, hotel.payload, { tensors: hotel.tensors }));
  let booked: Answer;
  try {
    booked = await Promise.race(desks); // the first that answers
  } catch (error) {
    if (!(error instanceof AskFailed)) throw error;
    await ctx.sleep(250);
    booked = await ctx.ask("booking/c", [error.kind, error.message]);
  }
  const found = { weather: weather.text, plan: plan.text, booked: booked.value };
  ctx.reply(found, { tensors: ctx.message.tensors });
}
