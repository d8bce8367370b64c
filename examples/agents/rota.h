/* Everything a Rota agent in C needs, in one freestanding header: no libc, no allocator, no imports.
 *
 * An agent includes this file and defines
 *
 *     static void agent(const rota_input *input);
 *
 * It reads `input`, says what should happen with rota_state, rota_result, rota_emit and rota_log, and returns. Nothing
 * happens before it returns: the header packs all of it into one answer, which Rota carries out whole or not at all.
 * A module of kind `function` (plain bytes in, plain bytes out) defines ROTA_FUNCTION before the #include, and then
 *
 *     static rota_bytes function(rota_bytes payload);
 *
 * Memory is a bump allocator that starts over at the first rota_alloc after an answer: never keep a pointer from one
 * message to the next; what must last belongs in the state. The layout of the arrays is in docs/AGENTS.md; change both.
 */
#ifndef ROTA_H
#define ROTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROTA_EXPORT(name) __attribute__((export_name(name)))

/* --- bytes ------------------------------------------------------------------------------------------------------- */

/* A view, never a copy. `data` is NULL where the array had nil; text is UTF-8 without a zero at its end. */
typedef struct {
    const uint8_t *data;
    uint32_t size;
} rota_bytes;

#define ROTA_NIL ((rota_bytes){NULL, 0})
#define ROTA_TEXT(literal) ((rota_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

/* ROTA_JOIN(a, b, c): the three one after the other, in new memory. */
#define ROTA_JOIN(...) \
    rota_join((const rota_bytes[]){__VA_ARGS__}, sizeof((const rota_bytes[]){__VA_ARGS__}) / sizeof(rota_bytes))

extern uint8_t __heap_base; /* set by the linker */
static uintptr_t rota_heap_end;
static bool rota_answered = true;

/* Return `size` bytes at a multiple of 8, or NULL where the memory may not grow: to the host a failure `memory`. */
ROTA_EXPORT("rota_alloc") void *rota_alloc(uint32_t size) {
    if (rota_answered) {
        rota_answered = false;
        rota_heap_end = (uintptr_t)&__heap_base;
    }
    uint64_t start = ((uint64_t)rota_heap_end + 7) & ~(uint64_t)7;
    uint64_t end = start + size;
    uint64_t room = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    if (end > UINT32_MAX) return NULL;
    if (end > room && __builtin_wasm_memory_grow(0, (end - room + 0xffff) >> 16) == (size_t)-1) return NULL;
    rota_heap_end = (uintptr_t)end;
    return (void *)(uintptr_t)start;
}

/* rota_alloc for the agent itself: without room it traps, and the task fails. */
static inline void *rota_new(uint64_t size) {
    void *data = size <= UINT32_MAX ? rota_alloc((uint32_t)size) : NULL;
    if (!data) __builtin_trap();
    return data;
}

/* A memcpy of nothing from NULL is undefined in C, and an empty view may well be NULL. */
static inline void rota_copy(uint8_t *to, rota_bytes from) {
    if (from.size > 0) __builtin_memcpy(to, from.data, from.size);
}

static inline rota_bytes rota_join(const rota_bytes *parts, uint32_t count) {
    uint32_t size = 0;
    for (uint32_t i = 0; i < count; i++) size += parts[i].size;
    uint8_t *data = rota_new(size);
    rota_bytes joined = {data, size};
    for (uint32_t i = 0; i < count; data += parts[i].size, i++) rota_copy(data, parts[i]);
    return joined;
}

/* Less than, equal to or greater than zero, as memcmp; a prefix is less than what it starts. */
static inline int rota_compare(rota_bytes left, rota_bytes right) {
    for (uint32_t i = 0; i < left.size && i < right.size; i++)
        if (left.data[i] != right.data[i]) return left.data[i] < right.data[i] ? -1 : 1;
    return left.size == right.size ? 0 : left.size < right.size ? -1 : 1;
}

static inline bool rota_equal(rota_bytes left, rota_bytes right) {
    return left.size == right.size && rota_compare(left, right) == 0;
}

static inline rota_bytes rota_decimal(uint64_t value) {
    uint8_t *end = (uint8_t *)rota_new(20) + 20, *at = end; /* 2^64 has 20 digits */
    do *--at = (uint8_t)('0' + value % 10);
    while (value /= 10);
    return (rota_bytes){at, (uint32_t)(end - at)};
}

/* Take the text up to the next space off the front of `text`, and the space too. */
static inline rota_bytes rota_take_word(rota_bytes *text) {
    rota_bytes word = {text->data, 0};
    while (word.size < text->size && text->data[word.size] != ' ') word.size++;
    uint32_t taken = word.size < text->size ? word.size + 1 : word.size;
    text->data += taken;
    text->size -= taken;
    return word;
}

/* Take a decimal number and the space after it off the front of `text`; false where none of up to 18 digits stands. */
static inline bool rota_take_number(rota_bytes *text, uint64_t *value) {
    rota_bytes word = rota_take_word(text);
    *value = 0;
    for (uint32_t i = 0; i < word.size; i++) {
        if (word.data[i] < '0' || word.data[i] > '9') return false;
        *value = *value * 10 + (uint64_t)(word.data[i] - '0');
    }
    return word.size > 0 && word.size <= 18;
}

/* --- reading MessagePack ----------------------------------------------------------------------------------------- */

/* `bad` stays set after the first value that is not what was asked for; reads then give zeros. Look at the end. */
typedef struct {
    const uint8_t *at, *end;
    bool bad;
} rota_reader;

static inline rota_reader rota_read(rota_bytes packed) {
    return (rota_reader){packed.data, packed.data + packed.size, false};
}

static inline rota_bytes rota_read_raw(rota_reader *reader, uint64_t size) {
    if (reader->bad || size > (uint64_t)(reader->end - reader->at)) {
        reader->bad = true;
        return ROTA_NIL;
    }
    rota_bytes raw = {reader->at, (uint32_t)size};
    reader->at += size;
    return raw;
}

static inline uint64_t rota_read_big_endian(rota_reader *reader, uint32_t size) {
    rota_bytes raw = rota_read_raw(reader, size);
    uint64_t value = 0;
    for (uint32_t i = 0; i < raw.size; i++) value = value << 8 | raw.data[i];
    return value;
}

/* Say whether nil comes next, and step over it if so. */
static inline bool rota_read_nil(rota_reader *reader) {
    if (reader->bad || reader->at == reader->end || *reader->at != 0xc0) return false;
    reader->at++;
    return true;
}

static inline uint64_t rota_read_uint(rota_reader *reader) {
    uint32_t tag = (uint32_t)rota_read_big_endian(reader, 1);
    if (tag <= 0x7f) return tag;
    if (tag >= 0xcc && tag <= 0xcf) return rota_read_big_endian(reader, 1u << (tag - 0xcc));
    reader->bad = true;
    return 0;
}

/* Read bin or str: to C they are the same. Nil gives ROTA_NIL. */
static inline rota_bytes rota_read_bytes(rota_reader *reader) {
    uint32_t tag = (uint32_t)rota_read_big_endian(reader, 1);
    if (tag == 0xc0) return ROTA_NIL;
    if (tag >= 0xa0 && tag <= 0xbf) return rota_read_raw(reader, tag & 0x1f);
    if (tag >= 0xc4 && tag <= 0xc6) return rota_read_raw(reader, rota_read_big_endian(reader, 1u << (tag - 0xc4)));
    if (tag >= 0xd9 && tag <= 0xdb) return rota_read_raw(reader, rota_read_big_endian(reader, 1u << (tag - 0xd9)));
    reader->bad = true;
    return ROTA_NIL;
}

static inline uint32_t rota_read_length(rota_reader *reader, uint32_t fix, uint32_t tag16) {
    uint32_t tag = (uint32_t)rota_read_big_endian(reader, 1);
    uint64_t length = 0;
    if (tag >= fix && tag <= fix + 15) length = tag & 15;
    else if (tag == tag16) length = rota_read_big_endian(reader, 2);
    else if (tag == tag16 + 1) length = rota_read_big_endian(reader, 4);
    else reader->bad = true;
    /* Every element has at least one byte: a longer promise is a lie, and must not steer a loop or an allocation. */
    if (length > (uint64_t)(reader->end - reader->at)) reader->bad = true;
    return reader->bad ? 0 : (uint32_t)length;
}

/* Return how many values follow. */
static inline uint32_t rota_read_array(rota_reader *reader) { return rota_read_length(reader, 0x90, 0xdc); }

/* Return how many pairs follow. */
static inline uint32_t rota_read_map(rota_reader *reader) { return rota_read_length(reader, 0x80, 0xde); }

/* Step over one value of any type, with all that it holds. */
static inline void rota_skip(rota_reader *reader) {
    /* By tag from 0xc7: ext (bytes of its length), float, uint, int, fixext (with its type byte). */
    static const uint8_t sizes[] = {1, 2, 4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17};
    for (uint64_t left = 1; left > 0 && !reader->bad; left--) {
        uint32_t tag = reader->at < reader->end ? *reader->at : 0xc1;
        if ((tag >= 0x80 && tag <= 0x8f) || tag >> 1 == 0xde >> 1) left += 2 * (uint64_t)rota_read_map(reader);
        else if ((tag >= 0x90 && tag <= 0x9f) || tag >> 1 == 0xdc >> 1) left += rota_read_array(reader);
        else if (tag >= 0xa0 && tag <= 0xbf) rota_read_bytes(reader);
        else if ((tag >= 0xc4 && tag <= 0xc6) || (tag >= 0xd9 && tag <= 0xdb)) rota_read_bytes(reader);
        else if (tag >= 0xc7 && tag <= 0xc9) {
            reader->at++;
            rota_read_raw(reader, rota_read_big_endian(reader, sizes[tag - 0xc7]) + 1);
        } else if (tag >= 0xca && tag <= 0xd8) rota_read_raw(reader, 1u + sizes[tag - 0xc7]);
        else if (tag == 0xc1) reader->bad = true;
        else reader->at++; /* nil, false, true, small integers */
    }
}

/* Step to the value of `key` in the map that comes next; without such a key the reader is `bad`. */
static inline void rota_read_key(rota_reader *reader, rota_bytes key) {
    for (uint32_t left = rota_read_map(reader); left > 0; left--) {
        if (rota_equal(rota_read_bytes(reader), key)) return;
        rota_skip(reader);
    }
    reader->bad = true;
}

/* --- writing MessagePack ----------------------------------------------------------------------------------------- */

/* Start with `rota_writer writer = {0};`. Integers and lengths take their shortest form: one value, one encoding. */
typedef struct {
    uint8_t *data;
    uint32_t size, room;
} rota_writer;

static inline rota_bytes rota_written(const rota_writer *writer) { return (rota_bytes){writer->data, writer->size}; }

static inline void rota_write_raw(rota_writer *writer, rota_bytes raw) {
    if (raw.size > writer->room - writer->size) {
        uint64_t room = ((uint64_t)writer->size + raw.size) * 2 + 64;
        uint8_t *data = rota_new(room);
        rota_copy(data, rota_written(writer));
        writer->data = data;
        writer->room = (uint32_t)room;
    }
    rota_copy(writer->data + writer->size, raw);
    writer->size += raw.size;
}

static inline void rota_write_tag(rota_writer *writer, uint32_t tag, uint64_t value, uint32_t size) {
    uint8_t raw[9] = {(uint8_t)tag};
    for (uint32_t i = 0; i < size; i++) raw[size - i] = (uint8_t)(value >> (8 * i));
    rota_write_raw(writer, (rota_bytes){raw, 1 + size});
}

static inline void rota_write_nil(rota_writer *writer) { rota_write_tag(writer, 0xc0, 0, 0); }

static inline void rota_write_uint(rota_writer *writer, uint64_t value) {
    if (value <= 0x7f) rota_write_tag(writer, (uint32_t)value, 0, 0);
    else if (value <= 0xff) rota_write_tag(writer, 0xcc, value, 1);
    else if (value <= 0xffff) rota_write_tag(writer, 0xcd, value, 2);
    else if (value <= 0xffffffff) rota_write_tag(writer, 0xce, value, 4);
    else rota_write_tag(writer, 0xcf, value, 8);
}

static inline void rota_write_int(rota_writer *writer, int64_t value) {
    if (value >= 0) rota_write_uint(writer, (uint64_t)value);
    else if (value >= -32) rota_write_tag(writer, (uint32_t)(value & 0xff), 0, 0);
    else if (value >= INT8_MIN) rota_write_tag(writer, 0xd0, (uint64_t)value, 1);
    else if (value >= INT16_MIN) rota_write_tag(writer, 0xd1, (uint64_t)value, 2);
    else if (value >= INT32_MIN) rota_write_tag(writer, 0xd2, (uint64_t)value, 4);
    else rota_write_tag(writer, 0xd3, (uint64_t)value, 8);
}

static inline void rota_write_float32(rota_writer *writer, float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    rota_write_tag(writer, 0xca, bits, 4);
}

static inline void rota_write_length(rota_writer *writer, uint32_t length, uint32_t tag8, uint32_t tag16) {
    if (tag8 && length <= 0xff) rota_write_tag(writer, tag8, length, 1);
    else if (length <= 0xffff) rota_write_tag(writer, tag16, length, 2);
    else rota_write_tag(writer, tag16 + 1, length, 4);
}

static inline void rota_write_array(rota_writer *writer, uint32_t count) {
    if (count <= 15) rota_write_tag(writer, 0x90 | count, 0, 0);
    else rota_write_length(writer, count, 0, 0xdc);
}

static inline void rota_write_map(rota_writer *writer, uint32_t count) {
    if (count <= 15) rota_write_tag(writer, 0x80 | count, 0, 0);
    else rota_write_length(writer, count, 0, 0xde);
}

/* `text` must be UTF-8: a log line, target or message that is not makes the whole answer fail with `bad_output`. */
static inline void rota_write_str(rota_writer *writer, rota_bytes text) {
    if (text.size <= 31) rota_write_tag(writer, 0xa0 | text.size, 0, 0);
    else rota_write_length(writer, text.size, 0xd9, 0xda);
    rota_write_raw(writer, text);
}

static inline void rota_write_bin(rota_writer *writer, rota_bytes bytes) {
    rota_write_length(writer, bytes.size, 0xc4, 0xc5);
    rota_write_raw(writer, bytes);
}

#ifdef ROTA_FUNCTION
/* --- kind `function` --------------------------------------------------------------------------------------------- */

static rota_bytes function(rota_bytes payload);

ROTA_EXPORT("rota_call") uint64_t rota_call(const uint8_t *data, uint32_t size) {
    rota_bytes result = function((rota_bytes){data, size});
    rota_answered = true;
    return (uint64_t)(uintptr_t)result.data << 32 | result.size;
}

#else
/* --- kind `agent`: what it is given ------------------------------------------------------------------------------ */

typedef enum { ROTA_TELL, ROTA_ASK, ROTA_REPLY, ROTA_FAILURE, ROTA_TIMER } rota_kind;

static const rota_bytes rota_kind_names[] = {
    {(const uint8_t *)"tell", 4},
    {(const uint8_t *)"ask", 3},
    {(const uint8_t *)"reply", 5},
    {(const uint8_t *)"failure", 7},
    {(const uint8_t *)"timer", 5},
};

/* A tensor by reference. Its data stays outside: rota_tensor_read copies the part that is wanted. */
typedef struct {
    rota_bytes digest; /* 32 bytes, of dtype, shape and data */
    rota_bytes dtype;  /* "float32", ... */
    uint32_t dimensions;
    const uint64_t *shape;
} rota_tensor;

typedef struct {
    rota_bytes state;       /* as this agent left it; data is NULL before the first */
    rota_kind kind;         /* what sort of message this is */
    rota_bytes sender;      /* the agent it came from; data is NULL when it came from outside */
    rota_bytes payload;     /* for kind failure: MessagePack [kind, message] */
    uint64_t turn;          /* position of this task in the lane, from 1 */
    uint64_t now_ms;        /* wall-clock milliseconds at which the input it descends from arrived */
    const uint8_t *entropy; /* 32 random bytes, the same in every replay */
    bool answers;           /* kind reply or failure: the next three say what it answers */
    uint64_t reply_to;      /* the turn of the task that was asked */
    uint64_t asked_in;      /* the turn in which this agent asked, as `turn` was then */
    uint64_t asked_as;      /* which of the emits of that turn it was, from 0 */
    uint32_t tensor_count;
    const rota_tensor *tensors;
    rota_bytes address;     /* the agent's own */
} rota_input;

/* Copy up to `size` bytes of a tensor's data (C order, little-endian), from byte `offset` on, into `to`. Returns how
 * many were copied, 0 at the end of the data, or a negative number: -9 no such tensor, -14 `to` is outside the memory,
 * -22 bad offset.
 */
__attribute__((import_module("rota"), import_name("tensor_read")))
int32_t rota_tensor_read(uint32_t index, uint64_t offset, void *to, uint32_t size);

/* --- kind `agent`: what it may say ------------------------------------------------------------------------------- */

static struct {
    rota_bytes state, result, error_code, error_message;
    rota_writer emits, lines, tensors;
    uint32_t emit_count, line_count, tensor_count;
} rota_answer;

/* Replace the state. Without a call it stays as it was. The bytes are read when the agent returns. */
static inline void rota_state(rota_bytes state) { rota_answer.state = state; }

static inline void rota_result(rota_bytes result) { rota_answer.result = result; }

/* Add one of the task's own tensors to the result, by its index. */
static inline void rota_result_tensor(uint32_t index) {
    rota_write_uint(&rota_answer.tensors, index);
    rota_answer.tensor_count++;
}

static inline void rota_log(rota_bytes line) {
    rota_write_str(&rota_answer.lines, line);
    rota_answer.line_count++;
}

/* Fail the task: state stays as it was, emits are dropped, whatever was said before. Log lines are kept. */
static inline void rota_error(rota_bytes code, rota_bytes message) {
    rota_answer.error_code = code;
    rota_answer.error_message = message;
}

/* Send a task. `tensors` are indices into the task's own, `delay_ms` counts for ROTA_TIMER only. */
static inline void rota_emit_full(
    rota_bytes target, rota_bytes payload, int priority, rota_kind kind, const uint32_t *tensors, uint32_t tensor_count,
    uint64_t delay_ms
) {
    rota_writer *emits = &rota_answer.emits;
    rota_write_array(emits, 6);
    rota_write_str(emits, target);
    rota_write_bin(emits, payload);
    rota_write_int(emits, priority);
    rota_write_str(emits, rota_kind_names[kind]);
    rota_write_array(emits, tensor_count);
    for (uint32_t i = 0; i < tensor_count; i++) rota_write_uint(emits, tensors[i]);
    rota_write_uint(emits, delay_ms);
    rota_answer.emit_count++;
}

/* Priority is -8 (last) to 7 (first); kind is ROTA_TELL, or ROTA_ASK for an answer as a later message. */
static inline void rota_emit(rota_bytes target, rota_bytes payload, int priority, rota_kind kind) {
    rota_emit_full(target, payload, priority, kind, NULL, 0, 0);
}

static inline void rota_tell(rota_bytes target, rota_bytes payload) { rota_emit(target, payload, 0, ROTA_TELL); }

static inline void rota_ask(rota_bytes target, rota_bytes payload) { rota_emit(target, payload, 0, ROTA_ASK); }

/* Send `payload` to `self`, the agent's own address, as kind timer, `delay_ms` after this task's `now_ms`. */
static inline void rota_timer(rota_bytes self, rota_bytes payload, uint64_t delay_ms) {
    rota_emit_full(self, payload, 0, ROTA_TIMER, NULL, 0, delay_ms);
}

/* --- kind `agent`: between the two ------------------------------------------------------------------------------- */

#define ROTA_ABI 1

static void agent(const rota_input *input);

static inline void rota_read_tensors(rota_reader *reader, rota_input *input) {
    input->tensor_count = rota_read_array(reader);
    rota_tensor *tensors = rota_new((uint64_t)input->tensor_count * sizeof(rota_tensor));
    for (uint32_t i = 0; i < input->tensor_count; i++) {
        if (rota_read_array(reader) != 3) reader->bad = true;
        tensors[i].digest = rota_read_bytes(reader);
        tensors[i].dtype = rota_read_bytes(reader);
        tensors[i].dimensions = rota_read_array(reader);
        uint64_t *shape = rota_new((uint64_t)tensors[i].dimensions * sizeof(uint64_t));
        for (uint32_t d = 0; d < tensors[i].dimensions; d++) shape[d] = rota_read_uint(reader);
        tensors[i].shape = shape;
    }
    input->tensors = tensors;
}

/* Fields after the eleventh are left alone: a later host may add some. */
static inline bool rota_read_input(rota_reader *reader, rota_input *input) {
    if (rota_read_array(reader) < 11 || rota_read_uint(reader) != ROTA_ABI) return false;
    input->state = rota_read_bytes(reader);
    rota_bytes kind = rota_read_bytes(reader);
    while (input->kind < ROTA_TIMER && !rota_equal(kind, rota_kind_names[input->kind])) input->kind++;
    input->sender = rota_read_bytes(reader);
    input->payload = rota_read_bytes(reader);
    input->turn = rota_read_uint(reader);
    input->now_ms = rota_read_uint(reader);
    rota_bytes entropy = rota_read_bytes(reader);
    input->entropy = entropy.data;
    input->answers = !rota_read_nil(reader);
    if (input->answers) {
        if (rota_read_array(reader) != 3) return false;
        input->reply_to = rota_read_uint(reader);
        input->asked_in = rota_read_uint(reader);
        input->asked_as = rota_read_uint(reader);
    }
    rota_read_tensors(reader, input);
    input->address = rota_read_bytes(reader);
    return !reader->bad && entropy.size == 32 && rota_equal(kind, rota_kind_names[input->kind]);
}

static inline void rota_write_list(rota_writer *writer, uint32_t count, const rota_writer *items) {
    rota_write_array(writer, count);
    rota_write_raw(writer, rota_written(items));
}

static inline void rota_write_bin_or_nil(rota_writer *writer, rota_bytes bytes) {
    if (bytes.data) rota_write_bin(writer, bytes);
    else rota_write_nil(writer);
}

static inline rota_bytes rota_pack_answer(void) {
    rota_writer writer = {0};
    bool failed = rota_answer.error_code.data != NULL;
    rota_write_array(&writer, failed ? 5 : 7);
    rota_write_uint(&writer, ROTA_ABI);
    rota_write_uint(&writer, failed);
    if (failed) {
        rota_write_str(&writer, rota_answer.error_code);
        rota_write_str(&writer, rota_answer.error_message);
        rota_write_list(&writer, rota_answer.line_count, &rota_answer.lines);
        return rota_written(&writer);
    }
    rota_write_bin_or_nil(&writer, rota_answer.state);
    rota_write_bin_or_nil(&writer, rota_answer.result);
    rota_write_list(&writer, rota_answer.emit_count, &rota_answer.emits);
    rota_write_list(&writer, rota_answer.line_count, &rota_answer.lines);
    rota_write_list(&writer, rota_answer.tensor_count, &rota_answer.tensors);
    return rota_written(&writer);
}

ROTA_EXPORT("rota_step") uint64_t rota_step(const uint8_t *data, uint32_t size) {
    rota_reader reader = rota_read((rota_bytes){data, size});
    rota_input input = {0};
    __builtin_memset(&rota_answer, 0, sizeof rota_answer);
    if (rota_read_input(&reader, &input)) agent(&input);
    else rota_error(ROTA_TEXT("abi"), ROTA_TEXT("this agent knows version 1 of the input array only (docs/AGENTS.md)"));
    rota_bytes answer = rota_pack_answer();
    rota_answered = true;
    return (uint64_t)(uintptr_t)answer.data << 32 | answer.size;
}

#endif
#endif
