//! verbs: what the other examples leave out: priority, timer, log, tensors, any value as state.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const message = ctx.message;
    ctx.log(rota.join(&.{ @tagName(message.kind), " from ", message.sender orelse "outside" }));
    if (message.kind != .tell and message.kind != .ask) return ctx.reply(message.payload);
    const before = ctx.state;
    ctx.state = message.value();
    ctx.emit("log/main", ctx.state, .{ .priority = -3, .tensors = message.tensorIndices() });
    const asked = ctx.ask("echo/x", .{ message.turn, message.now_ms, message.address }, .{ .priority = 7 });
    ctx.timer(250, "again");
    ctx.reply(.{ .asked = asked, .entropy = rota.binary(message.entropy), .state = before });
}
