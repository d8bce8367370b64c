//! two_step: asks one agent, asks another with its answer, and keeps both and answers with them.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const message = ctx.message;
    const step = ctx.state.get("step").intOr(0);
    const turn: u64 = @intCast(ctx.state.get("turn").intOr(0));
    if (message.kind == .failure) {
        const text = rota.join(&.{ message.value().at(0).text(), ": ", message.value().at(1).text() });
        ctx.settleFailure(turn, rota.print("step_{d}", .{step}), text);
    } else if (message.kind != .reply) {
        ctx.state = rota.value(.{ .step = 1, .turn = ctx.postpone() });
        _ = ctx.ask("echo/two_step", message.payload, .{});
    } else if (step == 1) {
        ctx.state = rota.value(.{ .step = 2, .turn = turn, .first = message.payload });
        _ = ctx.ask("counter/two_step", message.payload, .{});
    } else {
        ctx.state = rota.value(.{ .step = 3, .first = ctx.state.get("first"), .second = message.payload });
        ctx.settle(turn, ctx.state, .{});
    }
}
