//! echo: the smallest agent. It replies the payload and the tensors as they came.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    ctx.replyWith(ctx.message.payload, ctx.message.tensorIndices());
}
