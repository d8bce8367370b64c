// A component in JavaScript, by the types of agent.wit: counts its messages, and replies how many there were.
//
//   componentize-qjs -w sdk/wit -n agent -j counter.js --stub-wasi --sync -o counter.wasm
//   rota deploy counter counter.wasm --kind component

const text = (val) => ({ tag: "text", val });

function one(state, message) {
  if (message.payload.tag !== "text") {
    return { tag: "err", val: { code: "not_text", message: "the payload is no UTF-8", log: [] } };
  }
  const count = (state ? Number(state.val) : 0) + 1;
  return {
    tag: "ok",
    val: {
      state: text(String(count)),
      output: text(`${message.payload.val}: ${count}`),
      emits: [],
      log: [`message ${count} from ${message.sender ?? "outside"}`],
      tensors: [],
      waits: undefined,
    },
  };
}

export const handler = {
  handle(state, messages) {
    return messages.map((message) => {
      const outcome = one(state, message);
      if (outcome.tag === "ok") state = outcome.val.state ?? state;
      return outcome;
    });
  },
};
