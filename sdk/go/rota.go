// Package rota is the SDK for Rota agents in Go. It uses the standard library only.
//
//	package main
//
//	import ("fmt"; "rota")
//
//	func init() { rota.Handle(agent) }
//	func main() {}
//
//	func agent(ctx *rota.Context) {
//		count := ctx.State.IntOr(0) + 1
//		ctx.State = rota.Of(count)
//		ctx.Reply(fmt.Sprint(count))
//	}
//
// A handler reads ctx.Message and ctx.State, says what should happen, and returns; then all of it happens, or none. A
// panic is an `error` with code `panic`. Build with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared. docs/SDK.md
// describes the shape, docs/AGENTS.md the arrays beneath.
package rota

import (
	"fmt"
	"unsafe"
)

// Priority is -8 (last) to 7 (first); tensors are given by index; a deadline of Ask and HandOn is in milliseconds
// after the message's NowMs; Turn says to HandOn which turn was postponed, if not this one.
type options struct {
	priority int64
	tensors  []uint32
	deadline uint64
	turn     uint64
}

// An Option may follow a payload.
type Option func(*options)

func Priority(priority int64) Option    { return func(all *options) { all.priority = priority } }
func Tensors(indices ...uint32) Option  { return func(all *options) { all.tensors = indices } }
func DeadlineMs(deadline uint64) Option { return func(all *options) { all.deadline = deadline } }
func Turn(turn uint64) Option           { return func(all *options) { all.turn = turn } }

func chosen(given []Option) options {
	var all options
	for _, option := range given {
		option(&all)
	}
	return all
}

// Context has one message, the agent's state, and the verbs. State is none at first; what it is when the handler returns
// is what the next message sees. A payload is []byte or string, which travel as they are, or anything that Of takes, as
// MessagePack.
type Context struct {
	Message *Message
	State   Value

	emits         packer
	emitCount     int
	result        []byte
	resultTensors []uint32
	postponed     bool
}

// Emit sends a message that gets no answer.
func (ctx *Context) Emit(target string, payload any, given ...Option) {
	ctx.send("tell", target, payload, nil, 0, chosen(given))
}

// Ask sends a message whose outcome comes back as a later one. It returns what its ReplyTo.Emit will be.
func (ctx *Context) Ask(target string, payload any, given ...Option) int {
	return ctx.sendAsk(target, payload, 0, chosen(given))
}

// Timer gets the payload back as a message of kind timer, delayMs after this message's NowMs.
func (ctx *Context) Timer(delayMs uint64, payload any) {
	ctx.send("timer", ctx.Message.Address, payload, &delayMs, 0, options{})
}

// Reply sets the result of the task; the last call counts. It copies the payload, as Emit does.
func (ctx *Context) Reply(payload any, given ...Option) {
	ctx.result = append([]byte{}, payloadOf(payload)...)
	ctx.resultTensors = append([]uint32{}, chosen(given).tensors...)
}

// Postpone gives no result yet: whoever asked gets one when a later message settles the turn that this returns.
func (ctx *Context) Postpone() uint64 {
	ctx.postponed = true
	return ctx.Message.Turn
}

// Settle answers the task that was postponed in turn; of the options the tensors count.
func (ctx *Context) Settle(turn uint64, payload any, given ...Option) {
	ctx.send("reply", ctx.Message.Address, payload, nil, turn, chosen(given))
}

// SettleFailure answers the task that was postponed in turn with the failure `error` "code: message".
func (ctx *Context) SettleFailure(turn uint64, code, message string) {
	ctx.send("failure", ctx.Message.Address, List(code, message), nil, turn, options{})
}

// HandOn lets another agent answer in place of this one: this task, or with the option Turn one that was postponed.
func (ctx *Context) HandOn(target string, payload any, given ...Option) {
	all := chosen(given)
	if all.turn == 0 {
		all.turn = ctx.Message.Turn
	}
	if all.turn == ctx.Message.Turn {
		ctx.Postpone()
	}
	ctx.sendAsk(target, payload, all.turn, all)
}

// Fail ends the task as `error` at once: the state stays as it was, nothing is sent.
func (ctx *Context) Fail(code, message string) { fail(code, message) }

// Log writes a line for the operator, at once.
func (ctx *Context) Log(text string) {
	hostLog(unsafe.Pointer(unsafe.StringData(text)), uint32(len(text)))
}

// Tensor makes a tensor of data (C order, little-endian) that Emit, Ask and Reply may name.
func (ctx *Context) Tensor(dtype string, shape []uint64, data []byte) *Tensor {
	index := hostTensorNew(
		unsafe.Pointer(unsafe.StringData(dtype)), uint32(len(dtype)),
		unsafe.Pointer(unsafe.SliceData(shape)), uint32(len(shape)),
		unsafe.Pointer(unsafe.SliceData(data)), uint32(len(data)),
	)
	if index < 0 {
		fail("bad_tensor", "dtype, shape and data do not fit, or there are too many tensors")
	}
	return &Tensor{Index: uint32(index), Dtype: dtype, Shape: shape}
}

func (ctx *Context) sendAsk(target string, payload any, answers uint64, all options) int {
	if all.deadline > 0 {
		return ctx.send("ask", target, payload, &all.deadline, answers, all)
	}
	return ctx.send("ask", target, payload, nil, answers, all)
}

func (ctx *Context) send(kind, target string, payload any, delayMs *uint64, answers uint64, all options) int {
	out, fields := &ctx.emits, 5
	if answers > 0 {
		fields = 7
	} else if delayMs != nil {
		fields = 6
	}
	out.array(fields)
	out.text(target)
	out.bin(payloadOf(payload))
	out.int(all.priority)
	out.text(kind)
	out.indices(all.tensors)
	if delayMs != nil {
		out.uint(*delayMs)
	} else if fields == 7 {
		out.uint(0)
	}
	if fields == 7 {
		out.uint(answers)
	}
	ctx.emitCount++
	return ctx.emitCount - 1
}

func (ctx *Context) output(before []byte) []byte {
	var out, state packer
	state.value(ctx.State.held)
	fields := 6
	if ctx.postponed {
		fields = 8
	} else if len(ctx.resultTensors) > 0 {
		fields = 7
	}
	out.array(fields)
	out.uint(1)
	out.uint(0)
	if before == nil {
		before = []byte{0xc0}
	}
	if string(state.bytes) == string(before) {
		out.nil()
	} else {
		out.bin(state.bytes)
	}
	if ctx.result == nil {
		out.nil()
	} else {
		out.bin(ctx.result)
	}
	out.array(ctx.emitCount)
	out.bytes = append(out.bytes, ctx.emits.bytes...)
	out.array(0) // the log is written by then
	if fields > 6 {
		out.indices(ctx.resultTensors)
	}
	if fields > 7 {
		out.text("")
	}
	return out.bytes
}

func payloadOf(payload any) []byte {
	switch held := Of(payload).held.(type) {
	case string:
		return []byte(held)
	case []byte:
		return held
	default:
		var out packer
		out.value(held)
		return out.bytes
	}
}

var (
	handler func(*Context)
	input   []byte
	answer  []byte
)

// Handle makes a function the handler of this module. Call it in init.
func Handle(agent func(*Context)) { handler = agent }

//go:wasmimport rota log
func hostLog(text unsafe.Pointer, size uint32)

//go:wasmimport rota fail
func hostFail(code unsafe.Pointer, codeSize uint32, message unsafe.Pointer, messageSize uint32)

//go:wasmimport rota tensor_read
func hostTensorRead(index uint32, offset uint64, to unsafe.Pointer, size uint32) int32

//go:wasmimport rota tensor_new
func hostTensorNew(
	dtype unsafe.Pointer, dtypeSize uint32, shape unsafe.Pointer, rank uint32, data unsafe.Pointer, size uint32,
) int32

func fail(code, message string) {
	hostFail(
		unsafe.Pointer(unsafe.StringData(code)), uint32(len(code)),
		unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)),
	)
	panic("the host ends the task in rota.fail")
}

//go:wasmexport rota_alloc
func alloc(size uint32) unsafe.Pointer {
	input = make([]byte, max(size, 1))
	return unsafe.Pointer(unsafe.SliceData(input))
}

//go:wasmexport rota_step
func step(data unsafe.Pointer, size uint32) uint64 {
	defer func() {
		if reason := recover(); reason != nil {
			fail("panic", fmt.Sprint(reason))
		}
	}()
	if handler == nil {
		fail("no_handler", "call rota.Handle(agent) in init")
	}
	message, before, ok := readMessage(unsafe.Slice((*byte)(data), size))
	if !ok {
		fail("abi", "this agent knows version 1 of the input array only")
	}
	ctx := &Context{Message: message}
	if before != nil {
		held, ok := unpack(before)
		if !ok {
			fail("bad_state", "the state is not one MessagePack value")
		}
		ctx.State = Value{held}
	}
	handler(ctx)
	answer = ctx.output(before)
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(answer))))<<32 | uint64(len(answer))
}
