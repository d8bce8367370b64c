//! Write Rota agents in Zig: the whole SDK, without the host's libraries.
//!
//!     const rota = @import("rota");
//!
//!     pub fn agent(ctx: *rota.Context) !void {
//!         const count = ctx.state.intOr(0) + 1;
//!         ctx.state = rota.value(count);
//!         ctx.reply(rota.print("{d}", .{count}));
//!     }
//!
//! A handler reads `ctx.message` and `ctx.state`, says what should happen, and returns; then all of it happens, or none.
//! An error that it returns, and a panic, fail the task as `error`. main.zig is the root of every module: it exports what
//! the host calls. Memory is a bump allocator that starts over with each message: what must last belongs in the state.
//! docs/SDK.md describes the shape, docs/AGENTS.md the arrays beneath.

const std = @import("std");

// --- memory and host -------------------------------------------------------------------------------------------------

const imports = struct {
    extern "rota" fn log(text: [*]const u8, size: usize) void;
    extern "rota" fn fail(code: [*]const u8, code_size: usize, message: [*]const u8, message_size: usize) void;
    extern "rota" fn tensor_read(index: u32, offset: u64, to: [*]u8, size: usize) i32;
    extern "rota" fn tensor_new(
        dtype: [*]const u8,
        dtype_size: usize,
        shape: [*]const u64,
        rank: usize,
        data: [*]const u8,
        size: usize,
    ) i32;
};

extern var __heap_base: u8;
var heap_end: usize = 0;
var answered = true;

/// `size` bytes at a multiple of `alignment`, or null where the memory may not grow.
fn take(size: usize, alignment: usize) ?[*]u8 {
    if (answered) {
        answered = false;
        heap_end = @intFromPtr(&__heap_base);
    }
    const start = std.mem.alignForward(u64, heap_end, alignment);
    const end = start + size;
    const room = @as(u64, @wasmMemorySize(0)) << 16;
    if (end > std.math.maxInt(u32)) return null;
    if (end > room and @wasmMemoryGrow(0, @intCast((end - room + 0xffff) >> 16)) < 0) return null;
    heap_end = @intCast(end);
    return @ptrFromInt(@as(usize, @intCast(start)));
}

fn allocate(_: *anyopaque, size: usize, alignment: std.mem.Alignment, _: usize) ?[*]u8 {
    return take(size, alignment.toByteUnits()) orelse
        fail("out_of_memory", "the agent needs more than its memory_bytes");
}

/// The last piece can grow in place; nothing is freed before the answer.
fn resize(_: *anyopaque, memory: []u8, _: std.mem.Alignment, size: usize, _: usize) bool {
    if (size <= memory.len) return true;
    if (@intFromPtr(memory.ptr) + memory.len != heap_end) return false;
    return take(size - memory.len, 1) != null;
}

fn remap(context: *anyopaque, memory: []u8, alignment: std.mem.Alignment, size: usize, caller: usize) ?[*]u8 {
    return if (resize(context, memory, alignment, size, caller)) memory.ptr else null;
}

fn free(_: *anyopaque, _: []u8, _: std.mem.Alignment, _: usize) void {}

/// For the agent's own lists and maps. It never fails: without room the task ends with `out_of_memory`.
pub const allocator: std.mem.Allocator = .{
    .ptr = undefined,
    .vtable = &.{ .alloc = allocate, .resize = resize, .remap = remap, .free = free },
};

/// End the task as `error` at once: the state stays as it was, nothing is sent.
pub fn fail(code: []const u8, message: []const u8) noreturn {
    imports.fail(code.ptr, code.len, message.ptr, message.len);
    unreachable;
}

fn panicked(text: []const u8, _: ?usize) noreturn {
    fail("panic", text);
}

/// What main.zig makes of a panic.
pub const panic = std.debug.FullPanic(panicked);

/// Text from a format and its arguments.
pub fn print(comptime format: []const u8, arguments: anytype) []u8 {
    return std.fmt.allocPrint(allocator, format, arguments) catch unreachable;
}

/// The texts one after the other.
pub fn join(parts: []const []const u8) []u8 {
    return std.mem.concat(allocator, u8, parts) catch unreachable;
}

// --- values ----------------------------------------------------------------------------------------------------------

pub const Pair = struct { key: Value, value: Value };

fn bad(wanted: []const u8) noreturn {
    fail("bad_value", wanted);
}

/// One value of any type. `uint` is for integers above the largest i64 only. The methods that give a plain type fail the
/// task with `bad_value` where the value has another one. Make values with `rota.value` and `rota.binary`, which copy: the
/// slices of one that is written out here have to last until the answer.
pub const Value = union(enum) {
    none,
    boolean: bool,
    integer: i64,
    uint: u64,
    number: f64,
    string: []const u8,
    binary: []const u8,
    list: []const Value,
    map: []const Pair,

    pub fn isNone(self: Value) bool {
        return self == .none;
    }

    pub fn truth(self: Value) bool {
        return if (self == .boolean) self.boolean else bad("true or false is needed");
    }

    pub fn int(self: Value) i64 {
        return if (self == .integer) self.integer else bad("an integer is needed");
    }

    /// The number, or `otherwise` if there is no value.
    pub fn intOr(self: Value, otherwise: i64) i64 {
        return if (self == .none) otherwise else self.int();
    }

    /// The number, also of an integer.
    pub fn float(self: Value) f64 {
        return if (self == .number) self.number else @floatFromInt(self.int());
    }

    pub fn text(self: Value) []const u8 {
        return if (self == .string) self.string else bad("text is needed");
    }

    /// The content of text or bytes.
    pub fn bytes(self: Value) []const u8 {
        return if (self == .binary) self.binary else self.text();
    }

    /// The value of `key`; none if this is no map or has no such key.
    pub fn get(self: Value, key: []const u8) Value {
        if (self == .map) for (self.map) |pair| {
            if (pair.key == .string and std.mem.eql(u8, pair.key.string, key)) return pair.value;
        };
        return .none;
    }

    /// Item `index`; none if this is no list or is shorter.
    pub fn at(self: Value, index: usize) Value {
        return if (self == .list and index < self.list.len) self.list[index] else .none;
    }

    /// This map with one value replaced, or added at its end. None counts as an empty map.
    pub fn with(self: Value, key: []const u8, new: anytype) Value {
        if (self != .map and self != .none) bad("a map is needed");
        const old: []const Pair = if (self == .map) self.map else &.{};
        var found = old.len;
        for (old, 0..) |pair, index| {
            if (pair.key == .string and std.mem.eql(u8, pair.key.string, key)) found = index;
        }
        const pairs = allocator.alloc(Pair, @max(old.len, found + 1)) catch unreachable;
        @memcpy(pairs[0..old.len], old);
        pairs[found] = .{ .key = if (found < old.len) old[found].key else value(key), .value = value(new) };
        return .{ .map = pairs };
    }

    /// This list with one more item. None counts as an empty list.
    pub fn plus(self: Value, item: anytype) Value {
        if (self != .list and self != .none) bad("a list is needed");
        const old: []const Value = if (self == .list) self.list else &.{};
        const items = allocator.alloc(Value, old.len + 1) catch unreachable;
        @memcpy(items[0..old.len], old);
        items[old.len] = value(item);
        return .{ .list = items };
    }
};

/// A value of anything: numbers, booleans, text, null, `.{ 1, "two" }` as a list, `.{ .key = 1 }` as a map. Text is copied.
pub fn value(from: anytype) Value {
    const T = @TypeOf(from);
    if (T == Value) return from;
    switch (@typeInfo(T)) {
        .null => return .none,
        .optional => return if (from) |held| value(held) else .none,
        .bool => return .{ .boolean = from },
        .comptime_int, .int => return if (from > std.math.maxInt(i64)) .{ .uint = from } else .{ .integer = @intCast(from) },
        .comptime_float, .float => return .{ .number = from },
        .pointer => return .{ .string = copied(from) },
        .@"struct" => |about| {
            const names = comptime std.meta.fieldNames(T);
            if (about.is_tuple) {
                const items = allocator.alloc(Value, names.len) catch unreachable;
                inline for (from, 0..) |item, index| items[index] = value(item);
                return .{ .list = items };
            }
            const pairs = allocator.alloc(Pair, names.len) catch unreachable;
            inline for (names, 0..) |name, index| {
                pairs[index] = .{ .key = .{ .string = name }, .value = value(@field(from, name)) };
            }
            return .{ .map = pairs };
        },
        else => @compileError("rota.value takes no " ++ @typeName(T)),
    }
}

/// Bytes that are no text, as a value.
pub fn binary(from: []const u8) Value {
    return .{ .binary = copied(from) };
}

/// What is read after the handler has returned is copied when it is given: it may be on the handler's stack, or in a
/// buffer that is filled again.
fn copied(from: []const u8) []const u8 {
    return allocator.dupe(u8, from) catch unreachable;
}

// --- MessagePack -----------------------------------------------------------------------------------------------------

/// Writes the shortest forms: one value, one encoding.
const Writer = struct {
    out: std.ArrayList(u8) = .empty,

    fn raw(self: *Writer, bytes: []const u8) void {
        self.out.appendSlice(allocator, bytes) catch unreachable;
    }

    fn tagged(self: *Writer, tag: u8, number: u64, size: usize) void {
        var bytes: [9]u8 = undefined;
        bytes[0] = tag;
        for (0..size) |index| bytes[size - index] = @truncate(number >> @intCast(8 * index));
        self.raw(bytes[0 .. size + 1]);
    }

    fn nil(self: *Writer) void {
        self.tagged(0xc0, 0, 0);
    }

    fn uint(self: *Writer, number: u64) void {
        if (number <= 0x7f) return self.tagged(@intCast(number), 0, 0);
        if (number <= 0xff) return self.tagged(0xcc, number, 1);
        if (number <= 0xffff) return self.tagged(0xcd, number, 2);
        if (number <= 0xffff_ffff) return self.tagged(0xce, number, 4);
        self.tagged(0xcf, number, 8);
    }

    fn int(self: *Writer, number: i64) void {
        const bits: u64 = @bitCast(number);
        if (number >= 0) return self.uint(bits);
        if (number >= -32) return self.tagged(@truncate(bits), 0, 0);
        if (number >= std.math.minInt(i8)) return self.tagged(0xd0, bits, 1);
        if (number >= std.math.minInt(i16)) return self.tagged(0xd1, bits, 2);
        if (number >= std.math.minInt(i32)) return self.tagged(0xd2, bits, 4);
        self.tagged(0xd3, bits, 8);
    }

    fn length(self: *Writer, size: usize, fix: u8, fix_max: usize, tag8: u8, tag16: u8) void {
        if (size <= fix_max) return self.tagged(fix | @as(u8, @intCast(size)), 0, 0);
        if (tag8 != 0 and size <= 0xff) return self.tagged(tag8, size, 1);
        if (size <= 0xffff) return self.tagged(tag16, size, 2);
        self.tagged(tag16 + 1, size, 4);
    }

    fn array(self: *Writer, count: usize) void {
        self.length(count, 0x90, 15, 0, 0xdc);
    }

    fn text(self: *Writer, from: []const u8) void {
        self.length(from.len, 0xa0, 31, 0xd9, 0xda);
        self.raw(from);
    }

    fn bin(self: *Writer, from: []const u8) void {
        if (from.len <= 0xff) self.tagged(0xc4, from.len, 1) else self.length(from.len, 0, 0, 0, 0xc5);
        self.raw(from);
    }

    fn indices(self: *Writer, tensors: []const u32) void {
        self.array(tensors.len);
        for (tensors) |index| self.uint(index);
    }

    fn value(self: *Writer, from: Value) void {
        switch (from) {
            .none => self.nil(),
            .boolean => |held| self.tagged(if (held) 0xc3 else 0xc2, 0, 0),
            .integer => |held| self.int(held),
            .uint => |held| self.uint(held),
            .number => |held| self.tagged(0xcb, @bitCast(held), 8),
            .string => |held| self.text(held),
            .binary => |held| self.bin(held),
            .list => |items| {
                self.array(items.len);
                for (items) |item| self.value(item);
            },
            .map => |pairs| {
                self.length(pairs.len, 0x80, 15, 0, 0xde);
                for (pairs) |pair| {
                    self.value(pair.key);
                    self.value(pair.value);
                }
            },
        }
    }
};

fn packed_(from: Value) []const u8 {
    var writer: Writer = .{};
    writer.value(from);
    return writer.out.items;
}

const Bad = error{NotMessagePack};
const depth_max = 200; // of lists and maps in each other

/// Texts and bytes are views into the input.
const Reader = struct {
    left: []const u8,

    fn take(self: *Reader, size: u64) Bad![]const u8 {
        if (size > self.left.len) return error.NotMessagePack;
        const found = self.left[0..@intCast(size)];
        self.left = self.left[@intCast(size)..];
        return found;
    }

    fn number(self: *Reader, size: usize) Bad!u64 {
        var found: u64 = 0;
        for (try self.take(size)) |byte| found = found << 8 | byte;
        return found;
    }

    fn signed(self: *Reader, comptime T: type) Bad!Value {
        const bits: i64 = @bitCast(try self.number(@sizeOf(T)));
        return .{ .integer = @as(T, @truncate(bits)) };
    }

    fn value(self: *Reader, depth: usize) Bad!Value {
        const tag: u8 = @intCast(try self.number(1));
        return switch (tag) {
            0...0x7f => .{ .integer = tag },
            0x80...0x8f => self.map(tag & 15, depth),
            0x90...0x9f => self.list(tag & 15, depth),
            0xa0...0xbf => .{ .string = try self.take(tag & 31) },
            0xc0 => .none,
            0xc2, 0xc3 => .{ .boolean = tag == 0xc3 },
            0xc4...0xc6 => .{ .binary = try self.take(try self.number(@as(usize, 1) << @intCast(tag - 0xc4))) },
            0xca => .{ .number = @as(f32, @bitCast(@as(u32, @truncate(try self.number(4))))) },
            0xcb => .{ .number = @bitCast(try self.number(8)) },
            0xcc...0xcf => rotaValue(try self.number(@as(usize, 1) << @intCast(tag - 0xcc))),
            0xd0 => self.signed(i8),
            0xd1 => self.signed(i16),
            0xd2 => self.signed(i32),
            0xd3 => self.signed(i64),
            0xd9...0xdb => .{ .string = try self.take(try self.number(@as(usize, 1) << @intCast(tag - 0xd9))) },
            0xdc, 0xdd => self.list(try self.number(@as(usize, 2) << @intCast(tag - 0xdc)), depth),
            0xde, 0xdf => self.map(try self.number(@as(usize, 2) << @intCast(tag - 0xde)), depth),
            0xe0...0xff => .{ .integer = @as(i8, @bitCast(tag)) },
            else => error.NotMessagePack, // extensions
        };
    }

    /// Every element has at least a byte: a longer promise is a lie and must not steer an allocation.
    fn checked(self: *Reader, count: u64, depth: usize) Bad!usize {
        return if (count > self.left.len or depth == depth_max) error.NotMessagePack else @intCast(count);
    }

    fn list(self: *Reader, count: u64, depth: usize) Bad!Value {
        const items = allocator.alloc(Value, try self.checked(count, depth)) catch unreachable;
        for (items) |*item| item.* = try self.value(depth + 1);
        return .{ .list = items };
    }

    fn map(self: *Reader, count: u64, depth: usize) Bad!Value {
        const pairs = allocator.alloc(Pair, try self.checked(count, depth)) catch unreachable;
        for (pairs) |*pair| pair.* = .{ .key = try self.value(depth + 1), .value = try self.value(depth + 1) };
        return .{ .map = pairs };
    }
};

fn rotaValue(from: u64) Value {
    return value(from);
}

fn unpack(data: []const u8) Bad!Value {
    var reader: Reader = .{ .left = data };
    const found = try reader.value(0);
    return if (reader.left.len == 0) found else error.NotMessagePack;
}

// --- what a handler is given -----------------------------------------------------------------------------------------

pub const Kind = enum { tell, ask, reply, failure, timer };

/// What a reply or failure answers: the turn of the asked task, the turn that asked, and what `ask` returned there.
pub const ReplyTo = struct { turn: u64, asked_in: u64, emit: u64 };

/// A tensor by reference. `index` is what emits and replies name it by.
pub const Tensor = struct {
    index: u32,
    digest: []const u8 = "",
    dtype: []const u8,
    shape: []const u64,

    /// Copy the data (C order, little-endian) from byte `offset` on into `to`; return what was copied, shorter only at the
    /// end. Fails the task with `bad_tensor` where `offset` is behind the end.
    pub fn read(self: Tensor, offset: u64, to: []u8) []u8 {
        const count = imports.tensor_read(self.index, offset, to.ptr, to.len);
        if (count < 0) fail("bad_tensor", "the offset is behind the end");
        return to[0..@intCast(count)];
    }
};

pub const Message = struct {
    kind: Kind,
    /// The agent it came from; null: from outside.
    sender: ?[]const u8,
    /// Bytes, or text in UTF-8.
    payload: []const u8,
    turn: u64,
    now_ms: u64,
    entropy: *const [32]u8,
    reply_to: ?ReplyTo,
    tensors: []const Tensor,
    /// The agent's own.
    address: []const u8,

    /// The payload as text; fails the task with `bad_payload` if it is not UTF-8.
    pub fn text(self: Message) []const u8 {
        if (!std.unicode.utf8ValidateSlice(self.payload)) fail("bad_payload", "the payload is not UTF-8");
        return self.payload;
    }

    /// The payload as one value; a failure's is `[kind, message]`. Fails the task with `bad_payload` if it is none.
    pub fn value(self: Message) Value {
        return unpack(self.payload) catch fail("bad_payload", "the payload is not one MessagePack value");
    }

    /// The indices of all tensors, to hand them on.
    pub fn tensorIndices(self: Message) []u32 {
        const found = allocator.alloc(u32, self.tensors.len) catch unreachable;
        for (found, 0..) |*index, place| index.* = @intCast(place);
        return found;
    }
};

fn unsigned(from: Value) Bad!u64 {
    return switch (from) {
        .integer => |held| if (held < 0) error.NotMessagePack else @intCast(held),
        .uint => |held| held,
        else => error.NotMessagePack,
    };
}

fn readTensors(from: Value) Bad![]Tensor {
    const tensors = allocator.alloc(Tensor, from.list.len) catch unreachable;
    for (tensors, from.list, 0..) |*tensor, fields, index| {
        const shape = allocator.alloc(u64, fields.at(2).list.len) catch unreachable;
        for (shape, fields.at(2).list) |*size, held| size.* = try unsigned(held);
        const dtype = fields.at(1).text();
        tensor.* = .{ .index = @intCast(index), .digest = fields.at(0).bytes(), .dtype = dtype, .shape = shape };
    }
    return tensors;
}

fn readMessage(fields: Value) Bad!Message {
    const answers = fields.at(8);
    return .{
        .kind = std.meta.stringToEnum(Kind, fields.at(2).text()) orelse return error.NotMessagePack,
        .sender = if (fields.at(3).isNone()) null else fields.at(3).text(),
        .payload = fields.at(4).bytes(),
        .turn = try unsigned(fields.at(5)),
        .now_ms = try unsigned(fields.at(6)),
        .entropy = fields.at(7).bytes()[0..32],
        .reply_to = if (answers.isNone()) null else .{
            .turn = try unsigned(answers.at(0)),
            .asked_in = try unsigned(answers.at(1)),
            .emit = try unsigned(answers.at(2)),
        },
        .tensors = try readTensors(fields.at(9)),
        .address = fields.at(10).text(),
    };
}

// --- what a handler may say ------------------------------------------------------------------------------------------

/// What may follow a payload. Priority is -8 (last) to 7 (first); tensors are indices.
pub const Options = struct {
    priority: i8 = 0,
    tensors: []const u32 = &.{},
    /// Of an ask: milliseconds after this message's `now_ms` at which it fails as `expired`; 0: none.
    deadline_ms: u64 = 0,
    /// Of `handOn`: the turn that was postponed; 0: this one.
    turn: u64 = 0,
};

/// An emit but for target and payload. `answers`: the postponed turn, 0 for none.
const Sending = struct { kind: []const u8, options: Options = .{}, delay_ms: ?u64 = null, answers: u64 = 0 };

/// `state` is none at first; what it is when the handler returns is what the next message sees. A payload is bytes or text
/// as it is, or anything that `value` takes as MessagePack.
pub const Context = struct {
    message: Message,
    state: Value,
    emits: Writer = .{},
    emit_count: u32 = 0,
    result: ?[]const u8 = null,
    result_tensors: []const u32 = &.{},
    postponed: bool = false,

    /// Send a message that gets no answer.
    pub fn emit(self: *Context, target: []const u8, content: anytype, options: Options) void {
        _ = self.send(target, payload(content), .{ .kind = "tell", .options = options });
    }

    /// Send a message whose outcome comes back as a later one. Returns what its `reply_to.emit` will be.
    pub fn ask(self: *Context, target: []const u8, content: anytype, options: Options) u32 {
        const delay_ms = if (options.deadline_ms > 0) options.deadline_ms else null;
        return self.send(target, payload(content), .{ .kind = "ask", .options = options, .delay_ms = delay_ms });
    }

    /// Get the content back as a message of kind timer, `delay_ms` after this message's `now_ms`.
    pub fn timer(self: *Context, delay_ms: u64, content: anytype) void {
        _ = self.send(self.message.address, payload(content), .{ .kind = "timer", .delay_ms = delay_ms });
    }

    /// Set the result of the task; the last call counts.
    pub fn reply(self: *Context, content: anytype) void {
        self.replyWith(content, &.{});
    }

    /// The same, with tensors by index.
    pub fn replyWith(self: *Context, content: anytype, tensors: []const u32) void {
        self.result = copied(payload(content));
        self.result_tensors = allocator.dupe(u32, tensors) catch unreachable;
    }

    /// Give no result yet: whoever asked gets one when a later message settles the turn that this returns.
    pub fn postpone(self: *Context) u64 {
        self.postponed = true;
        return self.message.turn;
    }

    /// Answer the task that was postponed in `turn`; of the options the tensors count.
    pub fn settle(self: *Context, turn: u64, content: anytype, options: Options) void {
        _ = self.send(self.message.address, payload(content), .{ .kind = "reply", .options = options, .answers = turn });
    }

    /// Answer the task that was postponed in `turn` with the failure `error` "code: message".
    pub fn settleFailure(self: *Context, turn: u64, code: []const u8, message: []const u8) void {
        const failure = packed_(value(.{ code, message }));
        _ = self.send(self.message.address, failure, .{ .kind = "failure", .answers = turn });
    }

    /// Let another agent answer in place of this one: this task, or with `turn` one that was postponed.
    pub fn handOn(self: *Context, target: []const u8, content: anytype, options: Options) void {
        const answers = if (options.turn == 0) self.message.turn else options.turn;
        if (answers == self.message.turn) _ = self.postpone();
        const delay_ms = if (options.deadline_ms > 0) options.deadline_ms else null;
        const how = Sending{ .kind = "ask", .options = options, .delay_ms = delay_ms, .answers = answers };
        _ = self.send(target, payload(content), how);
    }

    /// End the task as `error` at once: the state stays as it was, nothing is sent.
    pub fn fail(_: *Context, code: []const u8, message: []const u8) noreturn {
        failTask(code, message);
    }

    /// A line for the operator, written at once.
    pub fn log(_: *Context, text: []const u8) void {
        imports.log(text.ptr, text.len);
    }

    /// Make a tensor of `data` (C order, little-endian) that emits and the reply may name.
    pub fn tensor(_: *Context, dtype: []const u8, shape: []const u64, data: []const u8) Tensor {
        const index = imports.tensor_new(dtype.ptr, dtype.len, shape.ptr, shape.len, data.ptr, data.len);
        if (index < 0) failTask("bad_tensor", "dtype, shape and data do not fit, or there are too many tensors");
        const kept = allocator.dupe(u64, shape) catch unreachable;
        return .{ .index = @intCast(index), .dtype = copied(dtype), .shape = kept };
    }

    fn send(self: *Context, target: []const u8, content: []const u8, sending: Sending) u32 {
        const fields: usize = if (sending.answers > 0) 7 else if (sending.delay_ms != null) 6 else 5;
        self.emits.array(fields);
        self.emits.text(target);
        self.emits.bin(content);
        self.emits.int(sending.options.priority);
        self.emits.text(sending.kind);
        self.emits.indices(sending.options.tensors);
        if (fields > 5) self.emits.uint(sending.delay_ms orelse 0);
        if (fields > 6) self.emits.uint(sending.answers);
        self.emit_count += 1;
        return self.emit_count - 1;
    }

    fn output(self: *Context, before: ?[]const u8) []const u8 {
        const state = packed_(self.state);
        const result_size = if (self.result) |held| held.len else 0;
        var writer: Writer = .{};
        const room = 64 + state.len + result_size + self.emits.out.items.len + 5 * self.result_tensors.len;
        writer.out.ensureTotalCapacityPrecise(allocator, room) catch unreachable;
        const fields: usize = if (self.postponed) 8 else if (self.result_tensors.len > 0) 7 else 6;
        writer.array(fields);
        writer.uint(1);
        writer.uint(0);
        if (std.mem.eql(u8, state, before orelse "\xc0")) writer.nil() else writer.bin(state);
        if (self.result) |held| writer.bin(held) else writer.nil();
        writer.array(self.emit_count);
        writer.raw(self.emits.out.items);
        writer.array(0); // the log is written by then
        if (fields > 6) writer.indices(self.result_tensors);
        if (fields > 7) writer.text("");
        return writer.out.items;
    }
};

const failTask = fail;

/// Bytes and text as they are, not copied; any other value as MessagePack.
fn payload(content: anytype) []const u8 {
    const T = @TypeOf(content);
    if (T != Value and @typeInfo(T) == .pointer) return content;
    const held = value(content);
    return switch (held) {
        .string, .binary => |bytes| bytes,
        else => packed_(held),
    };
}

// --- what the host calls, for main.zig -------------------------------------------------------------------------------

pub fn alloc(size: usize) ?[*]u8 {
    return take(size, 8);
}

pub fn step(data: [*]const u8, size: usize, handler: fn (*Context) anyerror!void) u64 {
    const version = "this agent knows version 1 of the input array only";
    const fields = unpack(data[0..size]) catch fail("abi", version);
    if (fields != .list or fields.list.len < 11 or fields.at(0).intOr(0) != 1) fail("abi", version);
    const before: ?[]const u8 = if (fields.at(1).isNone()) null else fields.at(1).bytes();
    var ctx: Context = .{
        .message = readMessage(fields) catch fail("abi", version),
        .state = if (before) |held| unpack(held) catch fail("bad_state", "the state is not one MessagePack value") else .none,
    };
    handler(&ctx) catch |failure| fail(@errorName(failure), "the agent returned this error");
    const answer = ctx.output(before);
    answered = true;
    return @as(u64, @intFromPtr(answer.ptr)) << 32 | answer.len;
}
