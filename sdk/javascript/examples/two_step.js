// Asks one agent, asks another with the answer, and keeps both and answers with them.

export function agent(ctx) {
  const { state, message } = ctx;
  if (message.kind === "failure") {
    const [kind, text] = message.value;
    ctx.settleFailure(state.turn, `step_${state.step}`, `${kind}: ${text}`);
  } else if (message.kind !== "reply") {
    ctx.state = { step: 1, turn: ctx.postpone() };
    ctx.ask("echo/two_step", message.payload);
  } else if (state.step === 1) {
    ctx.state = { step: 2, turn: state.turn, first: message.text };
    ctx.ask("counter/two_step", message.payload);
  } else {
    ctx.state = { step: 3, first: state.first, second: message.text };
    ctx.settle(state.turn, ctx.state);
  }
}
