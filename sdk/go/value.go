package rota

import "math"

// Value is one value of any type: nothing, bool, int64, uint64 above the largest int64, float64, string, []byte, a list
// or a map. The methods that give a plain type fail the task with `bad_value` where the value has another one.
type Value struct{ held any }

type pair struct{ key, value any }

// Of makes a value of a bool, number, string, []byte, Value, nil, or []any of these.
func Of(from any) Value {
	switch held := from.(type) {
	case Value:
		return held
	case int:
		return Value{int64(held)}
	case int32:
		return Value{int64(held)}
	case uint32:
		return Value{int64(held)}
	case uint64:
		if held <= math.MaxInt64 {
			return Value{int64(held)}
		}
	case float32:
		return Value{float64(held)}
	case []any:
		return List(held...)
	case nil, bool, int64, float64, string, []byte, []pair:
	default:
		fail("bad_value", "rota.Of takes a bool, number, string, []byte, Value, nil or []any")
	}
	return Value{from}
}

// List makes a list of what Of takes.
func List(items ...any) Value {
	list := make([]any, len(items))
	for index, item := range items {
		list[index] = Of(item).held
	}
	return Value{list}
}

// Map makes a map of keys and values in turn: Map("step", 1, "text", text).
func Map(keysAndValues ...any) Value {
	pairs := make([]pair, len(keysAndValues)/2)
	for index := range pairs {
		pairs[index] = pair{Of(keysAndValues[2*index]).held, Of(keysAndValues[2*index+1]).held}
	}
	return Value{pairs}
}

func (value Value) IsNone() bool { return value.held == nil }

func need[T any](value Value, wanted string) T {
	held, ok := value.held.(T)
	if !ok {
		fail("bad_value", wanted)
	}
	return held
}

func (value Value) Bool() bool { return need[bool](value, "true or false is needed") }
func (value Value) Int() int64 { return need[int64](value, "an integer is needed") }

// IntOr is the number, or otherwise if there is no value.
func (value Value) IntOr(otherwise int64) int64 {
	if value.IsNone() {
		return otherwise
	}
	return value.Int()
}

// Float is the number, also of an integer.
func (value Value) Float() float64 {
	if held, ok := value.held.(float64); ok {
		return held
	}
	return float64(value.Int())
}

func (value Value) Text() string { return need[string](value, "text is needed") }

// Bytes is the content of text or bytes.
func (value Value) Bytes() []byte {
	if held, ok := value.held.([]byte); ok {
		return held
	}
	return []byte(value.Text())
}

// Len is how many items a list has, or pairs a map; 0 for any other value.
func (value Value) Len() int {
	switch held := value.held.(type) {
	case []any:
		return len(held)
	case []pair:
		return len(held)
	}
	return 0
}

// At is item index of a list, none where there is no such.
func (value Value) At(index int) Value {
	if held, ok := value.held.([]any); ok && index < len(held) {
		return Value{held[index]}
	}
	return Value{}
}

// Get is the value of a key of a map, none where there is no such.
func (value Value) Get(key string) Value {
	if held, ok := value.held.([]pair); ok {
		for _, pair := range held {
			if pair.key == any(key) {
				return Value{pair.value}
			}
		}
	}
	return Value{}
}

// With is this map with one value replaced, or added at its end. None counts as an empty map.
func (value Value) With(key string, item any) Value {
	var pairs []pair
	if !value.IsNone() {
		pairs = append(pairs, need[[]pair](value, "a map is needed")...)
	}
	for index := range pairs {
		if pairs[index].key == any(key) {
			pairs[index].value = Of(item).held
			return Value{pairs}
		}
	}
	return Value{append(pairs, pair{key, Of(item).held})}
}
