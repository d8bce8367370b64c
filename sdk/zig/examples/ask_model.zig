//! ask_model: asks a language model, and replies the text of its answer when that comes.
const rota = @import("rota");

pub fn agent(ctx: *rota.Context) !void {
    const message = ctx.message;
    switch (message.kind) {
        .reply => ctx.reply(message.value().get("generate").get("text")),
        .failure => ctx.reply(rota.join(&.{ message.value().at(0).text(), ": ", message.value().at(1).text() })),
        else => {
            const messages = .{.{ .role = "user", .content = message.payload }};
            _ = ctx.ask("model:smollm2", .{ .generate = .{ .max_tokens = 64, .messages = messages } }, .{});
            ctx.reply("asked");
        },
    }
}
