//! desk: answers later: asks another agent and settles, keeps a task for a later message, or hands it on.
const std = @import("std");
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const message = ctx.message;
    const Word = enum { wait, answer, refuse, pass, transfer };
    const word = std.meta.stringToEnum(Word, message.payload);
    const tensors = message.tensorIndices();
    if (message.kind == .reply) { // asked in the turn that was postponed
        ctx.settle(message.reply_to.?.asked_in, message.payload, .{ .tensors = tensors });
    } else if (message.kind == .failure) {
        const failure = message.value();
        ctx.settleFailure(message.reply_to.?.asked_in, failure.at(0).text(), failure.at(1).text());
    } else if (word == .wait) {
        ctx.state = rota.value(ctx.postpone());
    } else if (word == .transfer) {
        ctx.handOn("echo/x", message.payload, .{ .tensors = tensors });
    } else if (word) |known| {
        const waiting: u64 = @intCast(ctx.state.int());
        switch (known) {
            .answer => ctx.settle(waiting, .{ .waited = waiting }, .{}),
            .refuse => ctx.settleFailure(waiting, "refused", "the desk is closed"),
            else => ctx.handOn("echo/y", .{waiting}, .{ .priority = 3, .turn = waiting, .deadline_ms = 60_000 }),
        }
        if (known == .answer) ctx.reply("answered");
        ctx.state = .none;
    } else {
        _ = ctx.ask("echo/x", message.payload, .{ .tensors = tensors, .deadline_ms = 30_000 });
        _ = ctx.postpone();
    }
}
