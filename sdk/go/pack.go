package rota

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

const depthMax = 200 // of lists and maps in each other

// packer writes the shortest forms: one value, one encoding.
type packer struct{ bytes []byte }

func (out *packer) tagged(tag byte, number uint64, size int) {
	var held [8]byte
	binary.BigEndian.PutUint64(held[:], number)
	out.bytes = append(append(out.bytes, tag), held[8-size:]...)
}

func (out *packer) nil() { out.tagged(0xc0, 0, 0) }

func (out *packer) uint(number uint64) {
	switch {
	case number <= 0x7f:
		out.tagged(byte(number), 0, 0)
	case number <= 0xff:
		out.tagged(0xcc, number, 1)
	case number <= 0xffff:
		out.tagged(0xcd, number, 2)
	case number <= 0xffffffff:
		out.tagged(0xce, number, 4)
	default:
		out.tagged(0xcf, number, 8)
	}
}

func (out *packer) int(number int64) {
	switch {
	case number >= 0:
		out.uint(uint64(number))
	case number >= -32:
		out.tagged(byte(number), 0, 0)
	case number >= math.MinInt8:
		out.tagged(0xd0, uint64(number), 1)
	case number >= math.MinInt16:
		out.tagged(0xd1, uint64(number), 2)
	case number >= math.MinInt32:
		out.tagged(0xd2, uint64(number), 4)
	default:
		out.tagged(0xd3, uint64(number), 8)
	}
}

func (out *packer) length(size int, fix byte, fixMax int, tag8, tag16 byte) {
	switch {
	case size <= fixMax:
		out.tagged(fix|byte(size), 0, 0)
	case tag8 != 0 && size <= 0xff:
		out.tagged(tag8, uint64(size), 1)
	case size <= 0xffff:
		out.tagged(tag16, uint64(size), 2)
	default:
		out.tagged(tag16+1, uint64(size), 4)
	}
}

func (out *packer) array(count int) { out.length(count, 0x90, 15, 0, 0xdc) }

func (out *packer) text(text string) {
	out.length(len(text), 0xa0, 31, 0xd9, 0xda)
	out.bytes = append(out.bytes, text...)
}

func (out *packer) bin(bytes []byte) {
	out.length(len(bytes), 0, -1, 0xc4, 0xc5)
	out.bytes = append(out.bytes, bytes...)
}

func (out *packer) indices(tensors []uint32) {
	out.array(len(tensors))
	for _, index := range tensors {
		out.uint(uint64(index))
	}
}

func (out *packer) value(value any) {
	switch held := value.(type) {
	case nil:
		out.nil()
	case bool:
		if held {
			out.tagged(0xc3, 0, 0)
		} else {
			out.tagged(0xc2, 0, 0)
		}
	case int64:
		out.int(held)
	case uint64:
		out.uint(held)
	case float64:
		out.tagged(0xcb, math.Float64bits(held), 8)
	case string:
		out.text(held)
	case []byte:
		out.bin(held)
	case []any:
		out.array(len(held))
		for _, item := range held {
			out.value(item)
		}
	case []pair:
		out.length(len(held), 0x80, 15, 0, 0xde)
		for _, pair := range held {
			out.value(pair.key)
			out.value(pair.value)
		}
	}
}

// unpacker reads values off the front. bad stays set after the first thing that is no MessagePack.
type unpacker struct {
	left []byte
	bad  bool
}

func (in *unpacker) take(size uint64) []byte {
	if in.bad || size > uint64(len(in.left)) {
		in.bad = true
		return nil
	}
	found := in.left[:size]
	in.left = in.left[size:]
	return found
}

func (in *unpacker) number(size int) uint64 {
	var number uint64
	for _, part := range in.take(uint64(size)) {
		number = number<<8 | uint64(part)
	}
	return number
}

func (in *unpacker) text(size uint64) any {
	text := in.take(size)
	in.bad = in.bad || !utf8.Valid(text)
	return string(text)
}

func (in *unpacker) bin(size uint64) any { return append([]byte{}, in.take(size)...) }

func (in *unpacker) list(count uint64, depth int) any {
	// Every element has at least a byte: a longer promise is a lie and must not steer an allocation.
	if count > uint64(len(in.left)) || depth == depthMax {
		in.bad = true
		return nil
	}
	list := make([]any, count)
	for index := range list {
		list[index] = in.value(depth + 1)
	}
	return list
}

func (in *unpacker) mapping(count uint64, depth int) any {
	if count > uint64(len(in.left)) || depth == depthMax {
		in.bad = true
		return nil
	}
	pairs := make([]pair, count)
	for index := range pairs {
		pairs[index] = pair{in.value(depth + 1), in.value(depth + 1)}
	}
	return pairs
}

func (in *unpacker) value(depth int) any {
	tag := byte(in.number(1))
	switch {
	case in.bad || tag == 0xc0:
		return nil
	case tag <= 0x7f:
		return int64(tag)
	case tag <= 0x8f:
		return in.mapping(uint64(tag&15), depth)
	case tag <= 0x9f:
		return in.list(uint64(tag&15), depth)
	case tag <= 0xbf:
		return in.text(uint64(tag & 31))
	case tag == 0xc2 || tag == 0xc3:
		return tag == 0xc3
	case tag >= 0xc4 && tag <= 0xc6:
		return in.bin(in.number(1 << (tag - 0xc4)))
	case tag == 0xca:
		return float64(math.Float32frombits(uint32(in.number(4))))
	case tag == 0xcb:
		return math.Float64frombits(in.number(8))
	case tag >= 0xcc && tag <= 0xcf:
		return Of(in.number(1 << (tag - 0xcc))).held
	case tag == 0xd0:
		return int64(int8(in.number(1)))
	case tag == 0xd1:
		return int64(int16(in.number(2)))
	case tag == 0xd2:
		return int64(int32(in.number(4)))
	case tag == 0xd3:
		return int64(in.number(8))
	case tag >= 0xd9 && tag <= 0xdb:
		return in.text(in.number(1 << (tag - 0xd9)))
	case tag == 0xdc || tag == 0xdd:
		return in.list(in.number(2<<(tag-0xdc)), depth)
	case tag == 0xde || tag == 0xdf:
		return in.mapping(in.number(2<<(tag-0xde)), depth)
	case tag >= 0xe0:
		return int64(int8(tag))
	}
	in.bad = true // extensions
	return nil
}

// unpack returns the one value that the bytes are.
func unpack(data []byte) (any, bool) {
	in := unpacker{left: data}
	value := in.value(0)
	return value, !in.bad && len(in.left) == 0
}
