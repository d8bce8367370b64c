//! failing: fails as its payload says, "fail", "crash", "deep" or "spin"; else it replies the payload.
const rota = @import("rota");
const std = @import("std");

const Way = enum { fail, crash, deep, spin };

/// Each call keeps a variable in memory, so the stack ends.
fn deep(above: *volatile u64) u64 {
    var here: u64 = above.* + 1;
    return if (here > 0) deep(&here) + here else 0;
}

pub fn agent(ctx: *rota.Context) !void {
    const what = ctx.message.text();
    const way = std.meta.stringToEnum(Way, what) orelse return ctx.reply(what);
    ctx.log("before it");
    var start: u64 = 0;
    const touched: *volatile u64 = &start;
    switch (way) {
        .fail => ctx.fail("asked_to_fail", "the payload said so"),
        .crash => @panic("crashed"),
        .deep => ctx.reply(deep(&start)),
        .spin => while (true) {
            touched.* += 1;
        },
    }
}
