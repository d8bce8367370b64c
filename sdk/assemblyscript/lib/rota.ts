/**
 * Write Rota agents in AssemblyScript: the whole SDK.
 *
 *     import { Context, Value } from "rota";
 *
 *     export function agent(ctx: Context): void {
 *       const count = ctx.state.int(0) + 1;
 *       ctx.state = Value.of(count);
 *       ctx.reply(count.toString());
 *     }
 *
 * A handler reads ctx.message and ctx.state, says what should happen, and returns; then all of it happens, or none. An
 * exception and a failed assert are an `error` with code `abort`. ../main.ts is the entry of every module: it exports
 * what the host calls. docs/SDK.md describes the shape, docs/AGENTS.md the arrays beneath.
 */

// --- the host ---------------------------------------------------------------------------------------------------------

// @ts-ignore: decorator
@external("rota", "log")
declare function hostLog(text: usize, size: usize): void;
// @ts-ignore: decorator
@external("rota", "fail")
declare function hostFail(code: usize, codeSize: usize, message: usize, messageSize: usize): void;
// @ts-ignore: decorator
@external("rota", "tensor_read")
declare function hostTensorRead(index: u32, offset: u64, to: usize, size: usize): i32;
// @ts-ignore: decorator
@external("rota", "tensor_new")
declare function hostTensorNew(dtype: usize, dtypeSize: usize, shape: usize, rank: usize, data: usize, size: usize): i32;

/** A lone half of a surrogate pair becomes U+FFFD, as in TextEncoder. */
function utf8(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE));
}

/** Whether the bytes are UTF-8: decoding takes them as they come. */
function isUtf8(at: usize, size: usize): bool {
  const end = at + size;
  while (at < end) {
    const lead = <u32>load<u8>(at++);
    if (lead < 0x80) continue;
    const more = lead >= 0xc2 && lead <= 0xdf ? 1 : (lead & 0xf0) == 0xe0 ? 2 : lead >= 0xf0 && lead <= 0xf4 ? 3 : 0;
    if (more == 0 || end - at < <usize>more) return false;
    const second = <u32>load<u8>(at);
    if (lead == 0xe0 && second < 0xa0) return false; // longer than needed
    if (lead == 0xed && second > 0x9f) return false; // half of a surrogate pair
    if (lead == 0xf0 && second < 0x90) return false;
    if (lead == 0xf4 && second > 0x8f) return false; // above U+10FFFF
    for (let i = 0; i < more; i++) if ((load<u8>(at++) & 0xc0) != 0x80) return false;
  }
  return true;
}

/** End the task as `error` at once: the state stays as it was, nothing is sent. */
export function fail(code: string, message: string): void {
  const codeBytes = utf8(code), text = utf8(message);
  hostFail(codeBytes.dataStart, codeBytes.length, text.dataStart, text.length);
  unreachable();
}

/** What `abort` is, by the flag --use abort=~lib/rota/rotaAbort. */
export function rotaAbort(message: string | null, file: string | null, line: u32, column: u32): void {
  // The folder of the author's files is a library to the compiler, since ../main.ts imports from it.
  const name = file === null ? "?" : file.startsWith("~lib/agent.") ? file.substring(5) : file;
  const where = `${name}:${line}:${column}`;
  fail("abort", `${message === null ? "abort" : message} at ${where}`);
}

let chance: u64 = 0; // from the message that is handled

/** What Math.random begins with, by the flag --use seed=~lib/rota/rotaSeed. */
export function rotaSeed(): f64 {
  return reinterpret<f64>(chance);
}

// --- values -----------------------------------------------------------------------------------------------------------

export enum Type { None, Bool, Int, Uint, Float, Text, Bytes, List, Map }

/**
 * One value of any type. `Type.Uint` is for integers above the largest i64 only. The methods that give a plain type fail
 * the task with `bad_value` where the value has another one.
 */
export class Value {
  type: Type = Type.None;
  private bits: u64 = 0;
  private held: Uint8Array | null = null;
  private texts: string = "";
  /** Of a list: its items. Of a map: its keys and values in turn. */
  items: Array<Value> = [];

  /** A value of a number, a bool, a string, bytes (Uint8Array) or a value. */
  static of<T>(from: T): Value {
    if (from instanceof Value) return from as Value;
    const made = new Value();
    if (isString<T>()) {
      made.type = Type.Text;
      made.texts = from as string;
    } else if (from instanceof Uint8Array) {
      made.type = Type.Bytes;
      made.held = from as Uint8Array;
    } else if (isBoolean<T>()) {
      made.type = Type.Bool;
      made.bits = <u64>from;
    } else if (isFloat<T>()) {
      made.type = Type.Float;
      made.bits = reinterpret<u64>(<f64>from);
    } else {
      made.type = isSigned<T>() || <u64>from <= <u64>i64.MAX_VALUE ? Type.Int : Type.Uint;
      made.bits = <u64>from;
    }
    return made;
  }

  static list(): Value {
    const made = new Value();
    made.type = Type.List;
    return made;
  }

  static map(): Value {
    const made = new Value();
    made.type = Type.Map;
    return made;
  }

  get isNone(): bool {
    return this.type == Type.None;
  }

  private need(good: bool, wanted: string): void {
    if (!good) fail("bad_value", wanted + " needed");
  }

  bool(): bool {
    this.need(this.type == Type.Bool, "true or false is");
    return this.bits != 0;
  }

  /** The number; `otherwise`, if it is given, where there is no value. */
  int(otherwise: i64 = i64.MIN_VALUE): i64 {
    if (this.isNone && otherwise != i64.MIN_VALUE) return otherwise;
    this.need(this.type == Type.Int, "an integer is");
    return this.bits;
  }

  uint(): u64 {
    this.need(this.type == Type.Uint || (this.type == Type.Int && <i64>this.bits >= 0), "a number from 0 on is");
    return this.bits;
  }

  /** The number, also of an integer. */
  float(): f64 {
    if (this.type == Type.Float) return reinterpret<f64>(this.bits);
    return this.type == Type.Uint ? <f64>this.bits : <f64>this.int();
  }

  text(): string {
    this.need(this.type == Type.Text, "text is");
    return this.texts;
  }

  /** The content of text or bytes. */
  bytes(): Uint8Array {
    if (this.type == Type.Bytes) return this.held!;
    return utf8(this.text());
  }

  /** How many items a list has, or pairs a map; 0 for any other value. */
  get length(): i32 {
    return this.type == Type.Map ? this.items.length / 2 : this.items.length;
  }

  /** Item `index` of a list, none where there is no such. */
  at(index: i32): Value {
    return this.type == Type.List && index < this.items.length ? this.items[index] : new Value();
  }

  private find(key: string): i32 {
    if (this.type == Type.Map)
      for (let i = 0; i < this.items.length; i += 2)
        if (this.items[i].type == Type.Text && this.items[i].texts == key) return i;
    return -1;
  }

  /** The value of `key` in a map, none where there is no such. */
  get(key: string): Value {
    const found = this.find(key);
    return found < 0 ? new Value() : this.items[found + 1];
  }

  /** Replace the value of a key, or add it at the end. None becomes a map. Returns this value. */
  set<T>(key: string, value: T): Value {
    if (this.isNone) this.type = Type.Map;
    this.need(this.type == Type.Map, "a map is");
    const found = this.find(key);
    if (found >= 0) this.items[found + 1] = Value.of(value);
    else {
      this.items.push(Value.of(key));
      this.items.push(Value.of(value));
    }
    return this;
  }

  /** Add an item at the end of a list. None becomes a list. Returns this value. */
  add<T>(item: T): Value {
    if (this.isNone) this.type = Type.List;
    this.need(this.type == Type.List, "a list is");
    this.items.push(Value.of(item));
    return this;
  }

  /** The bits of a bool or number, for the writer. */
  get raw(): u64 {
    return this.bits;
  }
}

// --- MessagePack ------------------------------------------------------------------------------------------------------

/** Writes the shortest forms: one value, one encoding. */
class Writer {
  private buffer: ArrayBuffer = new ArrayBuffer(256);
  size: i32 = 0;

  get bytes(): Uint8Array {
    return Uint8Array.wrap(this.buffer, 0, this.size);
  }

  private room(size: i32): usize {
    if (this.size + size > this.buffer.byteLength) {
      const larger = new ArrayBuffer((this.size + size) * 2);
      memory.copy(changetype<usize>(larger), changetype<usize>(this.buffer), this.size);
      this.buffer = larger;
    }
    const at = changetype<usize>(this.buffer) + this.size;
    this.size += size;
    return at;
  }

  append(bytes: Uint8Array): void {
    memory.copy(this.room(bytes.length), bytes.dataStart, bytes.length);
  }

  tagged(tag: i32, value: u64, size: i32): void {
    const at = this.room(1 + size);
    store<u8>(at, tag);
    for (let i = 0; i < size; i++) store<u8>(at + size - i, value >> (8 * i));
  }

  nil(): void {
    this.tagged(0xc0, 0, 0);
  }

  uint(value: u64): void {
    if (value <= 0x7f) this.tagged(<i32>value, 0, 0);
    else if (value <= 0xff) this.tagged(0xcc, value, 1);
    else if (value <= 0xffff) this.tagged(0xcd, value, 2);
    else if (value <= 0xffffffff) this.tagged(0xce, value, 4);
    else this.tagged(0xcf, value, 8);
  }

  int(value: i64): void {
    if (value >= 0) this.uint(value);
    else if (value >= -32) this.tagged(<i32>value, 0, 0);
    else if (value >= i8.MIN_VALUE) this.tagged(0xd0, value, 1);
    else if (value >= i16.MIN_VALUE) this.tagged(0xd1, value, 2);
    else if (value >= i32.MIN_VALUE) this.tagged(0xd2, value, 4);
    else this.tagged(0xd3, value, 8);
  }

  private length(size: i32, fix: i32, fixMax: i32, tag8: i32, tag16: i32): void {
    if (size <= fixMax) this.tagged(fix | size, 0, 0);
    else if (tag8 != 0 && size <= 0xff) this.tagged(tag8, size, 1);
    else if (size <= 0xffff) this.tagged(tag16, size, 2);
    else this.tagged(tag16 + 1, size, 4);
  }

  array(count: i32): void {
    this.length(count, 0x90, 15, 0, 0xdc);
  }

  text(value: string): void {
    const bytes = utf8(value);
    this.length(bytes.length, 0xa0, 31, 0xd9, 0xda);
    this.append(bytes);
  }

  bin(bytes: Uint8Array): void {
    this.length(bytes.length, 0, -1, 0xc4, 0xc5);
    this.append(bytes);
  }

  indices(tensors: Array<u32>): void {
    this.array(tensors.length);
    for (let i = 0; i < tensors.length; i++) this.uint(tensors[i]);
  }

  value(value: Value): void {
    switch (value.type) {
      case Type.None: return this.nil();
      case Type.Bool: return this.tagged(value.bool() ? 0xc3 : 0xc2, 0, 0);
      case Type.Int: return this.int(value.raw);
      case Type.Uint: return this.uint(value.raw);
      case Type.Float: return this.tagged(0xcb, value.raw, 8);
      case Type.Text: return this.text(value.text());
      case Type.Bytes: return this.bin(value.bytes());
      case Type.List: this.array(value.length); break;
      default: this.length(value.length, 0x80, 15, 0, 0xde);
    }
    for (let i = 0; i < value.items.length; i++) this.value(value.items[i]);
  }
}

function packed(value: Value): Uint8Array {
  const writer = new Writer();
  writer.value(value);
  return writer.bytes;
}

const DEPTH_MAX = 200; // of lists and maps in each other

/** `bad` stays set after the first thing that is no MessagePack; look at it at the end. */
class Reader {
  bad: bool = false;

  constructor(private at: usize, private end: usize) {}

  private take(size: u64): usize {
    if (this.bad || size > <u64>(this.end - this.at)) {
      this.bad = true;
      return 0;
    }
    const found = this.at;
    this.at += <usize>size;
    return found;
  }

  private number(size: i32): u64 {
    const from = this.take(size);
    let found: u64 = 0;
    if (!this.bad) for (let i = 0; i < size; i++) found = (found << 8) | load<u8>(from + i);
    return found;
  }

  private bin(size: u64): Uint8Array {
    const from = this.take(size);
    const bytes = new Uint8Array(this.bad ? 0 : <i32>size);
    memory.copy(bytes.dataStart, from, bytes.length);
    return bytes;
  }

  private text(size: u64): Value {
    const from = this.take(size);
    if (!this.bad && !isUtf8(from, <usize>size)) this.bad = true;
    return Value.of(String.UTF8.decodeUnsafe(from, this.bad ? 0 : <usize>size));
  }

  private fill(into: Value, count: u64, depth: i32): Value {
    // Every element has at least a byte: a longer promise is a lie and must not steer a loop.
    if (count > <u64>(this.end - this.at) || depth == DEPTH_MAX) this.bad = true;
    for (let i: u64 = 0; i < count && !this.bad; i++) into.items.push(this.value(depth + 1));
    return into;
  }

  value(depth: i32): Value {
    const tag = <i32>this.number(1);
    if (this.bad || tag == 0xc0) return new Value();
    if (tag <= 0x7f) return Value.of(tag);
    if (tag <= 0x8f) return this.fill(Value.map(), 2 * (tag & 15), depth);
    if (tag <= 0x9f) return this.fill(Value.list(), tag & 15, depth);
    if (tag <= 0xbf) return this.text(tag & 31);
    if (tag >= 0xe0) return Value.of(<i64>(tag - 0x100));
    switch (tag) {
      case 0xc2: return Value.of(false);
      case 0xc3: return Value.of(true);
      case 0xc4: case 0xc5: case 0xc6: return Value.of(this.bin(this.number(1 << (tag - 0xc4))));
      case 0xca: return Value.of(<f64>reinterpret<f32>(<u32>this.number(4)));
      case 0xcb: return Value.of(reinterpret<f64>(this.number(8)));
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return Value.of(this.number(1 << (tag - 0xcc)));
      case 0xd0: return Value.of(<i64><i8>this.number(1));
      case 0xd1: return Value.of(<i64><i16>this.number(2));
      case 0xd2: return Value.of(<i64><i32>this.number(4));
      case 0xd3: return Value.of(<i64>this.number(8));
      case 0xd9: case 0xda: case 0xdb: return this.text(this.number(1 << (tag - 0xd9)));
      case 0xdc: case 0xdd: return this.fill(Value.list(), this.number(2 << (tag - 0xdc)), depth);
      case 0xde: case 0xdf: return this.fill(Value.map(), 2 * this.number(2 << (tag - 0xde)), depth);
      default: this.bad = true; // extensions
    }
    return new Value();
  }

  get atEnd(): bool {
    return this.at == this.end;
  }
}

/** The one value that the bytes are; fails the task with `code` if they are none. */
function unpack(bytes: Uint8Array, code: string, what: string): Value {
  const reader = new Reader(bytes.dataStart, bytes.dataStart + bytes.length);
  const found = reader.value(0);
  if (reader.bad || !reader.atEnd) fail(code, what + " is not one MessagePack value");
  return found;
}

// --- what a handler is given ------------------------------------------------------------------------------------------

/** What a reply or failure answers: the turn of the asked task, the turn that asked, and what `ask` returned there. */
export class ReplyTo {
  constructor(public turn: u64, public askedIn: u64, public emit: u64) {}
}

/** A tensor by reference. `index` is what emits and replies name it by. */
export class Tensor {
  constructor(public index: u32, public digest: Uint8Array, public dtype: string, public shape: Array<u64>) {}

  /**
   * Copy up to `size` bytes of the data (C order, little-endian) from byte `offset` on; fewer only at the end. Fails the
   * task with `bad_tensor` where `offset` is behind the end.
   */
  read(offset: u64, size: i32): Uint8Array {
    const bytes = new Uint8Array(size);
    const count = hostTensorRead(this.index, offset, bytes.dataStart, size);
    if (count < 0) fail("bad_tensor", "the offset is behind the end");
    return bytes.subarray(0, count);
  }
}

export class Message {
  /** tell, ask, reply, failure or timer */
  kind: string;
  /** The agent it came from; null: from outside. */
  sender: string | null;
  payload: Uint8Array;
  turn: u64;
  nowMs: u64;
  /** 32 random bytes, the same in every replay. */
  entropy: Uint8Array;
  replyTo: ReplyTo | null;
  tensors: Array<Tensor>;
  /** The agent's own. */
  address: string;

  constructor(fields: Value) {
    this.kind = fields.at(2).text();
    this.address = fields.at(10).text();
    this.sender = fields.at(3).isNone ? null : fields.at(3).text();
    this.payload = fields.at(4).bytes();
    this.turn = fields.at(5).uint();
    this.nowMs = fields.at(6).uint();
    this.entropy = fields.at(7).bytes();
    const answers = fields.at(8);
    this.replyTo = answers.isNone ? null : new ReplyTo(answers.at(0).uint(), answers.at(1).uint(), answers.at(2).uint());
    this.tensors = [];
    for (let i = 0; i < fields.at(9).length; i++) {
      const tensor = fields.at(9).at(i), shape: Array<u64> = [];
      for (let d = 0; d < tensor.at(2).length; d++) shape.push(tensor.at(2).at(d).uint());
      this.tensors.push(new Tensor(i, tensor.at(0).bytes(), tensor.at(1).text(), shape));
    }
  }

  /** The payload as text. Fails the task with `bad_payload` if it is not UTF-8. */
  get text(): string {
    const bytes = this.payload;
    if (!isUtf8(bytes.dataStart, bytes.length)) fail("bad_payload", "the payload is not UTF-8");
    return String.UTF8.decodeUnsafe(bytes.dataStart, bytes.length);
  }

  /** The payload as one value; a failure's is [kind, message]. Fails the task with `bad_payload` if it is none. */
  get value(): Value {
    return unpack(this.payload, "bad_payload", "the payload");
  }

  /** The indices of all tensors, to hand them on. */
  get tensorIndices(): Array<u32> {
    const found: Array<u32> = [];
    for (let i = 0; i < this.tensors.length; i++) found.push(i);
    return found;
  }
}

// --- what a handler may say -------------------------------------------------------------------------------------------

/**
 * `state` is none at first; what it is when the handler returns is what the next message sees. A payload is a string or
 * bytes, which travel as they are, or anything else that Value.of takes, as MessagePack. `priority` is -8 (last) to 7
 * (first), `tensors` are indices.
 */
export class Context {
  private emits: Writer = new Writer();
  private emitCount: i32 = 0;
  private result: Uint8Array | null = null;
  private resultTensors: Array<u32> = [];
  private postponed: bool = false;

  constructor(public message: Message, public state: Value) {}

  /** Send a message that gets no answer. */
  emit<T>(target: string, payload: T, priority: i32 = 0, tensors: Array<u32> = []): void {
    this.send("tell", target, payloadOf(payload), priority, tensors);
  }

  /**
   * Send a message whose outcome comes back as a later one; with `deadlineMs` it fails as `expired` that long after this
   * message's nowMs. Returns what its replyTo.emit will be.
   */
  ask<T>(target: string, payload: T, priority: i32 = 0, tensors: Array<u32> = [], deadlineMs: i64 = 0): i32 {
    return this.send("ask", target, payloadOf(payload), priority, tensors, deadlineMs > 0 ? deadlineMs : -1);
  }

  /** Get the payload back as a message of kind timer, `delayMs` after this message's nowMs. */
  timer<T>(delayMs: i64, payload: T): void {
    this.send("timer", this.message.address, payloadOf(payload), 0, [], delayMs);
  }

  /** Set the result of the task; the last call counts. The payload is copied, as those of emits are. */
  reply<T>(payload: T, tensors: Array<u32> = []): void {
    this.result = payloadOf(payload).slice();
    this.resultTensors = tensors.slice();
  }

  /** Give no result yet: whoever asked gets one when a later message settles the turn that this returns. */
  postpone(): u64 {
    this.postponed = true;
    return this.message.turn;
  }

  /** Answer the task that was postponed in `turn`. */
  settle<T>(turn: u64, payload: T, tensors: Array<u32> = []): void {
    this.send("reply", this.message.address, payloadOf(payload), 0, tensors, -1, turn);
  }

  /** Answer the task that was postponed in `turn` with the failure `error` "code: message". */
  settleFailure(turn: u64, code: string, message: string): void {
    this.send("failure", this.message.address, packed(Value.list().add(code).add(message)), 0, [], -1, turn);
  }

  /**
   * Let another agent answer in place of this one: this task, or the one that was postponed in `turn`; with `deadlineMs` it
   * fails as `expired` that long after this message's nowMs.
   */
  handOn<T>(
    target: string, payload: T, turn: u64 = 0, priority: i32 = 0, tensors: Array<u32> = [], deadlineMs: i64 = 0,
  ): void {
    const answers = turn == 0 ? this.message.turn : turn;
    if (answers == this.message.turn) this.postpone();
    this.send("ask", target, payloadOf(payload), priority, tensors, deadlineMs, answers);
  }

  /** End the task as `error` at once: the state stays as it was, nothing is sent. */
  fail(code: string, message: string): void {
    fail(code, message);
  }

  /** A line for the operator, written at once. */
  log(text: string): void {
    const bytes = utf8(text);
    hostLog(bytes.dataStart, bytes.length);
  }

  /** Make a tensor of `data` (C order, little-endian) that emits and the reply may name. */
  tensor(dtype: string, shape: Array<u64>, data: Uint8Array): Tensor {
    const name = utf8(dtype);
    const index = hostTensorNew(
      name.dataStart, name.length, shape.dataStart, shape.length, data.dataStart, data.length,
    );
    if (index < 0) fail("bad_tensor", "dtype, shape and data do not fit, or there are too many tensors");
    return new Tensor(index, new Uint8Array(0), dtype, shape);
  }

  private send(
    kind: string, target: string, payload: Uint8Array, priority: i32, tensors: Array<u32>, delayMs: i64 = -1,
    answers: u64 = 0,
  ): i32 {
    const emits = this.emits, fields = answers > 0 ? 7 : delayMs < 0 ? 5 : 6;
    emits.array(fields);
    emits.text(target);
    emits.bin(payload);
    emits.int(priority);
    emits.text(kind);
    emits.indices(tensors);
    if (fields > 5) emits.uint(max<i64>(delayMs, 0));
    if (fields > 6) emits.uint(answers);
    return this.emitCount++;
  }

  /** The output array. `before`: the state as it came. */
  output(before: Value): Uint8Array {
    const state = packed(this.state), writer = new Writer();
    const fields = this.postponed ? 8 : this.resultTensors.length > 0 ? 7 : 6;
    writer.array(fields);
    writer.uint(1);
    writer.uint(0);
    if (before.isNone ? this.state.isNone : equal(state, before.bytes())) writer.nil();
    else writer.bin(state);
    if (this.result === null) writer.nil();
    else writer.bin(this.result!);
    writer.array(this.emitCount);
    writer.append(this.emits.bytes);
    writer.array(0); // the log is written by then
    if (fields > 6) writer.indices(this.resultTensors);
    if (fields > 7) writer.text("");
    return writer.bytes;
  }
}

function equal(left: Uint8Array, right: Uint8Array): bool {
  return left.length == right.length && memory.compare(left.dataStart, right.dataStart, left.length) == 0;
}

function payloadOf<T>(from: T): Uint8Array {
  if (from instanceof Uint8Array) return from as Uint8Array;
  const value = Value.of(from);
  return value.type == Type.Text || value.type == Type.Bytes ? value.bytes() : packed(value);
}

// --- what the host calls, for main.ts ---------------------------------------------------------------------------------

let answer: Uint8Array | null = null; // kept until the next one

export function rotaAlloc(size: usize): usize {
  return heap.alloc(size);
}

export function rotaStep(at: usize, size: usize, handler: (ctx: Context) => void): u64 {
  const reader = new Reader(at, at + size);
  const fields = reader.value(0);
  if (reader.bad || fields.length < 11 || fields.at(0).int(0) != 1)
    fail("abi", "this agent knows version 1 of the input array only");
  const before = fields.at(1);
  const state = before.isNone ? new Value() : unpack(before.bytes(), "bad_state", "the state");
  const ctx = new Context(new Message(fields), state);
  chance = load<u64>(ctx.message.entropy.dataStart);
  handler(ctx);
  answer = ctx.output(before);
  return (<u64>answer!.dataStart << 32) | <u64>answer!.length;
}
