// Fails in the way that the payload asks for.

function deep(n) {
  return deep(n + 1) + 1;
}

export function agent(ctx) {
  const what = ctx.message.text;
  if (["fail", "crash", "deep", "spin"].includes(what)) ctx.log("before it");
  if (what === "fail") ctx.fail("asked_to_fail", "the payload said so");
  else if (what === "crash") throw new TypeError("crashed");
  else if (what === "deep") deep(0);
  else if (what === "spin") for (;;);
  else ctx.reply(what);
}
