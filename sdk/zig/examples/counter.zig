//! counter: counts its messages.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const count = ctx.state.intOr(0) + 1;
    ctx.state = rota.value(count);
    ctx.reply(rota.print("{d}", .{count}));
}
