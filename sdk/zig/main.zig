//! The root of every agent in Zig: it exports what the host calls, for the `agent` of the author's file.

const rota = @import("rota");
const author = @import("agent");

pub const panic = rota.panic;

export fn rota_alloc(size: usize) ?[*]u8 {
    return rota.alloc(size);
}

export fn rota_step(data: [*]const u8, size: usize) u64 {
    return rota.step(data, size, handler);
}

fn handler(ctx: *rota.Context) anyerror!void {
    return author.agent(ctx);
}
