// A quote for "3 chairs": asks two agents and a language model at once, and answers whoever asked.

export async function flow(ctx) {
  const [count, item] = ctx.message.text.split(" ");
  const request = { role: "user", content: `Describe ${item} in one sentence.` };
  const [stock, price, praise] = await Promise.all([
    ctx.ask(`stock/${item}`, count),
    ctx.ask(`price/${item}`, count),
    ctx.generate("smollm2", { messages: [request], max_tokens: 60 }),
  ]);
  return `${count} ${item}: ${price.text}, ${stock.text}. ${praise.text}`;
}
