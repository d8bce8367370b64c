"""What handlers pass by address, and what they slip on: tensors, values and results of the handler's own memory."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from rota.local import LocalLane, TaskFailed
from rota.sdk.building import build
from rota.sdk.projects import new_project

C = """#include "rota.h"
static void agent(rota_context *ctx) {
    uint64_t shape[] = {2, 3};
    float data[] = {1, 2, 3, 4, 5, 6};
    uint32_t made = rota_tensor_new("float32", shape, 2, data, sizeof data);
    uint8_t part[8];
    int32_t count = rota_tensor_read(made, 4, part, sizeof part);
    rota_emit("other/x", ctx->message.payload, .tensors = &made, .tensor_count = 1);
    rota_reply(((rota_bytes){part, (uint32_t)count}), .tensors = &made, .tensor_count = 1);
}
"""
ZIG = """const rota = @import("rota");
const std = @import("std");
pub fn agent(ctx: *rota.Context) !void {
    var data = [_]f32{ 1, 2, 3, 4, 5, 6 };
    const made = ctx.tensor("float32", &.{ 2, 3 }, std.mem.sliceAsBytes(&data));
    var part: [8]u8 = undefined;
    const got = made.read(4, &part);
    ctx.emit("other/x", ctx.message.payload, .{ .tensors = &.{made.index} });
    ctx.replyWith(rota.binary(got), &.{made.index});
}
"""


@pytest.mark.parametrize(("language", "file", "text"), [("c", "agent.c", C), ("zig", "agent.zig", ZIG)])
def test_a_tensor_made_by_an_agent(rota_lane: LocalLane, tmp_path: Path, language: str, file: str, text: str) -> None:
    """Goal: a tensor made, read again, sent and replied, from the handler's own stack. Method: the real sandbox."""
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    project = new_project("maker", language, tmp_path)
    (project.folder / file).write_text(text, encoding="utf-8")
    rota_lane.deploy("maker", build(project).path)
    result = rota_lane.submit("maker/a", b"x").result()
    assert result.payload == b"\0\0\0@\0\0@@"
    (tensor,) = result.tensors
    assert (tensor.dtype, tensor.shape) == ("float32", (2, 3))
    turn = rota_lane.turns[0]
    assert [(emit.target, emit.tensors) for emit in turn.emits] == [("other/x", (tensor,))]


REUSED = """const rota = @import("rota");
const std = @import("std");
fn remember(ctx: *rota.Context, number: u32) void {
    var name: [8]u8 = undefined;
    const key = std.fmt.bufPrint(&name, "key{d}", .{number}) catch unreachable;
    ctx.state = ctx.state.with(key, key);
}
fn make(ctx: *rota.Context, rows: u64) rota.Tensor {
    var dtype: [5]u8 = "uint8".*;
    var shape = [_]u64{ rows, 1 };
    return ctx.tensor(&dtype, &shape, &.{ 1, 2, 3 });
}
fn overwrite(depth: u32) u32 {
    var room: [64]u8 = @splat(@truncate(depth));
    const seen: *volatile [64]u8 = &room;
    return if (depth == 0) seen[0] else overwrite(depth - 1) + seen[1];
}
pub fn agent(ctx: *rota.Context) !void {
    remember(ctx, 1);
    const made = make(ctx, 3);
    const buffer = rota.allocator.alloc(u8, 2) catch unreachable;
    @memcpy(buffer, "ok");
    ctx.reply(buffer);
    @memcpy(buffer, "no");
    const held = rota.value(buffer);
    @memcpy(buffer, "xx");
    if (overwrite(20) == 0) return error.Never;
    ctx.state = ctx.state.with("held", held);
    ctx.log(rota.print("{s} {any} {s}", .{ made.dtype, made.shape, buffer }));
}
"""


def test_zig_copies_what_lasts(rota_lane: LocalLane, tmp_path: Path) -> None:
    """Goal: nothing is read from memory that the handler has left or filled again. Method: keys and tensors made by
    helpers on their stack, which others use afterwards; a buffer that changes between reply, value and answer.
    """
    _deploy_zig(rota_lane, tmp_path, REUSED)
    rota_lane.submit("maker/a", b"x").result()
    (turn,) = rota_lane.turns
    assert (turn.result, turn.log) == (b"ok", ("uint8 { 3, 1 } xx",))
    state = rota_lane.state("maker/a")
    assert state is not None
    assert msgpack.unpackb(state) == {"key1": "key1", "held": "no"}


SLIPS = """const rota = @import("rota");
const Slip = enum { index, underflow, empty, never, cast };
const std = @import("std");
pub fn agent(ctx: *rota.Context) !void {
    const text = ctx.message.text();
    var numbers = [_]u32{ 1, 2 };
    const seen: *volatile [2]u32 = &numbers;
    const places = numbers[0..];
    const nothing: ?u32 = if (text.len == 0) 1 else null;
    const got: u32 = switch (std.meta.stringToEnum(Slip, text).?) {
        .index => places[text.len],
        .underflow => seen[0] - @as(u32, @intCast(text.len)),
        .empty => nothing.?,
        .never => unreachable,
        .cast => @as(u8, @intCast(text.len * 100)),
    };
    ctx.reply(got);
}
"""


def test_slips_in_zig_are_panics(rota_lane: LocalLane, tmp_path: Path) -> None:
    """Goal: a slip ends the task in place of going on with anything. Method: those that the compiler cannot see."""
    _deploy_zig(rota_lane, tmp_path, SLIPS)
    texts = {
        "index": "panic: index out of bounds: index 5, len 2",
        "underflow": "panic: integer overflow",
        "empty": "panic: attempt to use null value",
        "never": "panic: reached unreachable code",
        "cast": "panic: integer does not fit in destination type",
    }
    for payload, text in texts.items():
        with pytest.raises(TaskFailed) as raised:
            rota_lane.submit("maker/a", payload.encode()).result()
        assert raised.value.fields["kind"] == "error"
        assert text in str(raised.value)


def _deploy_zig(lane: LocalLane, folder: Path, text: str) -> None:
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    project = new_project("maker", "zig", folder)
    (project.folder / "agent.zig").write_text(text, encoding="utf-8")
    lane.deploy("maker", build(project).path)
