//! ask_model: asks a language model, and answers with its text when that comes.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const message = ctx.message;
    if (message.kind == .reply) {
        ctx.settle(message.reply_to.?.asked_in, message.value().get("generate").get("text"), .{});
    } else if (message.kind == .failure) {
        const failure = message.value();
        ctx.settleFailure(message.reply_to.?.asked_in, failure.at(0).text(), failure.at(1).text());
    } else {
        const messages = .{.{ .role = "user", .content = message.payload }};
        _ = ctx.ask("model:smollm2", .{ .generate = .{ .max_tokens = 64, .messages = messages } }, .{});
        _ = ctx.postpone();
    }
}
