package rota

import (
	"unicode/utf8"
	"unsafe"
)

// ReplyTo says what a reply or failure answers: the turn of the asked task, the turn that asked, and what Ask returned.
type ReplyTo struct{ Turn, AskedIn, Emit uint64 }

// Tensor is a tensor by reference. Emits and replies name it by its Index.
type Tensor struct {
	Index  uint32
	Digest []byte
	Dtype  string
	Shape  []uint64
}

// Read copies the data (C order, little-endian) from byte offset on into to; it returns how much there was, less only at
// the end. It fails the task with `bad_tensor` where the offset is behind the end.
func (tensor *Tensor) Read(offset uint64, to []byte) int {
	count := hostTensorRead(tensor.Index, offset, unsafe.Pointer(unsafe.SliceData(to)), uint32(len(to)))
	if count < 0 {
		fail("bad_tensor", "the offset is behind the end")
	}
	return int(count)
}

// Message is what the handler is given. Kind is tell, ask, reply, failure or timer; Sender is "" from outside; ReplyTo
// is nil unless this is a reply or failure; Address is the agent's own.
type Message struct {
	Kind    string
	Sender  string
	Payload []byte
	Turn    uint64
	NowMs   uint64
	Entropy []byte
	ReplyTo *ReplyTo
	Tensors []*Tensor
	Address string
}

// Text is the payload as text. It fails the task with `bad_payload` if it is not UTF-8.
func (message *Message) Text() string {
	if !utf8.Valid(message.Payload) {
		fail("bad_payload", "the payload is not UTF-8")
	}
	return string(message.Payload)
}

// Value is the payload as one value; a failure's is [kind, message]. It fails the task with `bad_payload` if it is none.
func (message *Message) Value() Value {
	held, ok := unpack(message.Payload)
	if !ok {
		fail("bad_payload", "the payload is not one MessagePack value")
	}
	return Value{held}
}

// AllTensors hands all tensors of the message on.
func (message *Message) AllTensors() Option {
	indices := make([]uint32, len(message.Tensors))
	for index := range indices {
		indices[index] = uint32(index)
	}
	return Tensors(indices...)
}

func unsigned(value Value) uint64 {
	if held, ok := value.held.(uint64); ok {
		return held
	}
	return uint64(value.Int())
}

func readMessage(data []byte) (message *Message, state []byte, ok bool) {
	held, ok := unpack(data)
	fields := Value{held}
	if !ok || fields.Len() < 11 || fields.At(0).held != any(int64(1)) {
		return nil, nil, false
	}
	message = &Message{
		Kind:    fields.At(2).Text(),
		Payload: fields.At(4).Bytes(),
		Turn:    unsigned(fields.At(5)),
		NowMs:   unsigned(fields.At(6)),
		Entropy: fields.At(7).Bytes(),
		Address: fields.At(10).Text(),
	}
	if !fields.At(1).IsNone() {
		state = fields.At(1).Bytes()
	}
	if !fields.At(3).IsNone() {
		message.Sender = fields.At(3).Text()
	}
	if answers := fields.At(8); !answers.IsNone() {
		message.ReplyTo = &ReplyTo{unsigned(answers.At(0)), unsigned(answers.At(1)), unsigned(answers.At(2))}
	}
	for index := range fields.At(9).Len() {
		given := fields.At(9).At(index)
		tensor := &Tensor{Index: uint32(index), Digest: given.At(0).Bytes(), Dtype: given.At(1).Text()}
		for axis := range given.At(2).Len() {
			tensor.Shape = append(tensor.Shape, unsigned(given.At(2).At(axis)))
		}
		message.Tensors = append(message.Tensors, tensor)
	}
	return message, state, true
}
