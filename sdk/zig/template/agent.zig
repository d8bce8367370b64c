//! The agent NAME: counts its messages, and replies how many there were.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const count = ctx.state.intOr(0) + 1;
    ctx.state = rota.value(count);
    ctx.log(rota.print("message {d}", .{count}));
    ctx.reply(rota.print("{s}: {d}", .{ ctx.message.payload, count }));
}
