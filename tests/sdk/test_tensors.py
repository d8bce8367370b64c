"""What handlers pass by address: new tensors, and results and indices that are on the handler's stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from rota.local import LocalLane
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
