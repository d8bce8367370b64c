/* Everything a Rota agent in C or C++ needs, in one freestanding header: no libc, no allocator.
 *
 * An agent includes this file and defines
 *
 *     static void agent(rota_context *ctx);
 *
 * It reads ctx->message and ctx->state, says what should happen with rota_reply, rota_emit, rota_ask, rota_timer and
 * rota_log, sets ctx->state, and returns. Nothing happens before it returns, except that log lines are written: the
 * header packs all of it into one answer, which Rota carries out whole or not at all. rota_fail ends the task at once.
 * An agent that cannot answer yet calls rota_postpone, and rota_settle in a later message.
 *
 * A flow defines ROTA_FLOW before the #include, and then
 *
 *     static void flow(rota_context *ctx);
 *
 * It is called once for each message of its call: what it was asked, then the answers to what it has asked. It calls
 * rota_wait where it goes on; a message without that ends the call, with rota_reply as the answer. Its static variables
 * stay as they are between the messages of one call and are fresh in the next call. It has no state.
 * A module of kind `function` (plain bytes in, plain bytes out) defines ROTA_FUNCTION before the #include, and then
 *
 *     static rota_bytes function(rota_bytes payload);
 *
 * Payloads, states and what they are made of are values (rota_value). Where one is wanted, ROTA_VALUE makes it of what
 * was given: an integer, a double, a string, bytes. Memory is a bump allocator that starts over at the first rota_alloc
 * after an answer: never keep a pointer from one message to the next. What must last belongs in the state, in a flow in
 * memory of rota_keep.
 * docs/SDK.md describes the shape, docs/AGENTS.md the arrays beneath; change them together.
 */
#ifndef ROTA_H
#define ROTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROTA_EXPORT(name) __attribute__((export_name(name), used))
#define ROTA_IMPORT(name) __attribute__((import_module("rota"), import_name(name)))
#define ROTA_NORETURN __attribute__((noreturn)) static inline void
#ifdef __cplusplus
#define ROTA_EXTERN_C extern "C"
#else
#define ROTA_EXTERN_C extern
#endif

/* --- bytes ------------------------------------------------------------------------------------------------------- */

/* A view, never a copy. `data` is NULL where the array had nil; text is UTF-8 without a zero at its end. */
typedef struct {
    const uint8_t *data;
    uint32_t size;
} rota_bytes;

#define ROTA_NIL ((rota_bytes){NULL, 0})
#define ROTA_TEXT(literal) ((rota_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

/* Copy up to `size` bytes of a tensor's data (C order, little-endian), from byte `offset` on, into `to`. Returns how
 * many were copied, 0 at the end of the data, or a negative number: -9 no such tensor, -14 `to` is outside the memory,
 * -22 bad offset.
 */
ROTA_IMPORT("tensor_read") int32_t rota_tensor_read(uint32_t index, uint64_t offset, void *to, uint32_t size);

ROTA_IMPORT("tensor_new") int32_t rota_import_tensor_new(
    const uint8_t *dtype, uint32_t dtype_size, const uint64_t *shape, uint32_t rank, const void *data, uint32_t size
);
ROTA_IMPORT("log") void rota_import_log(const uint8_t *text, uint32_t size);
ROTA_IMPORT("fail") void rota_import_fail(
    const uint8_t *code, uint32_t code_size, const uint8_t *message, uint32_t message_size
);

/* End the task as `error` "code: message", at once: the state stays as it was, nothing is sent, log lines are kept. */
ROTA_NORETURN rota_fail_with(rota_bytes code, rota_bytes message) {
    rota_import_fail(code.data, code.size, message.data, message.size);
    __builtin_trap();
}

ROTA_NORETURN rota_out_of_memory(void) {
    rota_fail_with(ROTA_TEXT("out_of_memory"), ROTA_TEXT("the agent needs more than its memory_bytes"));
}

ROTA_EXTERN_C uint8_t __heap_base; /* set by the linker */
static uintptr_t rota_heap_end;
static bool rota_answered = true;

#ifdef ROTA_FLOW
/* Memory of the call: whole pages, each taken from the end of the memory as it was then, in order. */
typedef struct rota_chunk {
    struct rota_chunk *next;
    uintptr_t end;
} rota_chunk;

static struct {
    rota_chunk *first, *last;
    uintptr_t end; /* of what is used of the last one */
} rota_kept;

/* The first place from `start` on where the memory of a step has room for `size` bytes between those of the call. */
static inline uint64_t rota_around_kept(uint64_t start, uint32_t size) {
    for (const rota_chunk *chunk = rota_kept.first; chunk; chunk = chunk->next)
        if (start < chunk->end && start + size > (uintptr_t)chunk) start = chunk->end;
    return start;
}
#else
static inline uint64_t rota_around_kept(uint64_t start, uint32_t size) { return (void)size, start; }
#endif

/* Return `size` bytes at a multiple of 8, or NULL where the memory may not grow: to the host a failure `memory`. */
ROTA_EXPORT("rota_alloc") void *rota_alloc(uint32_t size) {
    if (rota_answered) {
        rota_answered = false;
        rota_heap_end = (uintptr_t)&__heap_base;
    }
    uint64_t start = rota_around_kept(((uint64_t)rota_heap_end + 7) & ~(uint64_t)7, size);
    uint64_t end = start + size;
    uint64_t room = (uint64_t)__builtin_wasm_memory_size(0) << 16;
    if (end > UINT32_MAX) return NULL;
    if (end > room && __builtin_wasm_memory_grow(0, (end - room + 0xffff) >> 16) == (size_t)-1) return NULL;
    rota_heap_end = (uintptr_t)end;
    return (void *)(uintptr_t)start;
}

/* rota_alloc for the agent itself: without room the task fails with `out_of_memory`. */
static inline void *rota_new(uint64_t size) {
    void *data = size <= UINT32_MAX ? rota_alloc((uint32_t)size) : NULL;
    if (!data) rota_out_of_memory();
    return data;
}

/* A memcpy of nothing from NULL is undefined in C, and an empty view may well be NULL. */
static inline void rota_copy(uint8_t *to, rota_bytes from) {
    if (from.size > 0) __builtin_memcpy(to, from.data, from.size);
}

static inline rota_bytes rota_join(const rota_bytes *parts, uint32_t count) {
    uint32_t size = 0;
    for (uint32_t i = 0; i < count; i++) size += parts[i].size;
    uint8_t *data = (uint8_t *)rota_new(size);
    rota_bytes joined = {data, size};
    for (uint32_t i = 0; i < count; data += parts[i].size, i++) rota_copy(data, parts[i]);
    return joined;
}

#ifdef ROTA_FLOW
/* `size` bytes at a multiple of 8 that last until the call ends. */
static inline void *rota_keep_new(uint32_t size) {
    uint64_t start = ((uint64_t)rota_kept.end + 7) & ~(uint64_t)7;
    if (!rota_kept.last || start + size > rota_kept.last->end) {
        uint64_t pages = ((uint64_t)size + sizeof(rota_chunk) + 0xffff) >> 16;
        size_t before = __builtin_wasm_memory_grow(0, (size_t)pages);
        if (before == (size_t)-1) rota_out_of_memory();
        rota_chunk *chunk = (rota_chunk *)(before << 16);
        chunk->next = NULL;
        chunk->end = (uintptr_t)(((uint64_t)before + pages) << 16);
        if (rota_kept.last) rota_kept.last->next = chunk;
        else rota_kept.first = chunk;
        rota_kept.last = chunk;
        start = (uintptr_t)(chunk + 1);
    }
    rota_kept.end = (uintptr_t)(start + size);
    return (void *)(uintptr_t)start;
}

static inline rota_bytes rota_keep_bytes(rota_bytes bytes) {
    if (!bytes.data) return bytes;
    uint8_t *data = (uint8_t *)rota_keep_new(bytes.size);
    rota_bytes kept = {data, bytes.size};
    rota_copy(data, bytes);
    return kept;
}
#endif

static inline rota_bytes rota_same(rota_bytes bytes) { return bytes; }

/* A view of a string up to its zero. */
__attribute__((no_builtin("strlen"))) static inline rota_bytes rota_string(const char *text) {
    uint32_t size = 0;
    while (text[size]) size++;
    return (rota_bytes){(const uint8_t *)text, size};
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

static inline rota_bytes rota_decimal(int64_t value) {
    uint8_t *end = (uint8_t *)rota_new(20) + 20, *at = end; /* -2^63 has 20 characters */
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do *--at = (uint8_t)('0' + left % 10);
    while (left /= 10);
    if (value < 0) *--at = '-';
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

/* Read an integer of either sign that fits. */
static inline int64_t rota_read_int(rota_reader *reader) {
    uint32_t tag = !reader->bad && reader->at < reader->end ? *reader->at : 0xc1;
    if (tag < 0xd0 || (tag > 0xd3 && tag < 0xe0)) {
        uint64_t value = rota_read_uint(reader);
        if (value > INT64_MAX) reader->bad = true;
        return reader->bad ? 0 : (int64_t)value;
    }
    reader->at++;
    if (tag >= 0xe0) return (int64_t)tag - 0x100;
    uint32_t size = 1u << (tag - 0xd0);
    return (int64_t)(rota_read_big_endian(reader, size) << (64 - 8 * size)) >> (64 - 8 * size);
}

static inline double rota_read_float(rota_reader *reader) {
    uint32_t tag = (uint32_t)rota_read_big_endian(reader, 1);
    if (tag == 0xca) {
        uint32_t bits = (uint32_t)rota_read_big_endian(reader, 4);
        float value;
        __builtin_memcpy(&value, &bits, sizeof value);
        return (double)value;
    }
    uint64_t bits = rota_read_big_endian(reader, 8);
    double value;
    __builtin_memcpy(&value, &bits, sizeof value);
    if (tag != 0xcb) reader->bad = true;
    return value;
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

/* Start with `rota_writer writer = {NULL, 0, 0};`. Integers and lengths take their shortest form: one value, one encoding. */
typedef struct {
    uint8_t *data;
    uint32_t size, room;
} rota_writer;

static inline rota_bytes rota_written(const rota_writer *writer) { return (rota_bytes){writer->data, writer->size}; }

static inline void rota_write_raw(rota_writer *writer, rota_bytes raw) {
    if (raw.size > writer->room - writer->size) {
        uint64_t room = ((uint64_t)writer->size + raw.size) * 2 + 64;
        uint8_t *data = (uint8_t *)rota_new(room);
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

static inline void rota_write_float64(rota_writer *writer, double value) {
    uint64_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    rota_write_tag(writer, 0xcb, bits, 8);
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

/* --- values ------------------------------------------------------------------------------------------------------ */

/* One value of any type, kept as its MessagePack: small to pass on, read only where it is asked for. */
typedef struct {
    rota_bytes packed; /* data is NULL: no value, the same as nil */
} rota_value;

#define ROTA_NONE ((rota_value){ROTA_NIL})

static inline rota_value rota_packed(const rota_writer *writer) { return (rota_value){rota_written(writer)}; }
static inline rota_value rota_same_value(rota_value value) { return value; }

static inline rota_value rota_bool(bool value) {
    return (rota_value){value ? ROTA_TEXT("\xc3") : ROTA_TEXT("\xc2")};
}

static inline rota_value rota_int(int64_t value) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_int(&writer, value);
    return rota_packed(&writer);
}

static inline rota_value rota_float(double value) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_float64(&writer, value);
    return rota_packed(&writer);
}

/* Text, which must be UTF-8. */
static inline rota_value rota_text(rota_bytes text) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_str(&writer, text);
    return rota_packed(&writer);
}

static inline rota_value rota_text_of(const char *text) { return rota_text(rota_string(text)); }

static inline rota_value rota_bin(rota_bytes bytes) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_bin(&writer, bytes);
    return rota_packed(&writer);
}

static inline void rota_write_value(rota_writer *writer, rota_value value) {
    if (value.packed.data) rota_write_raw(writer, value.packed);
    else rota_write_nil(writer);
}

static inline rota_value rota_list_of(const rota_value *items, uint32_t count) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_array(&writer, count);
    for (uint32_t i = 0; i < count; i++) rota_write_value(&writer, items[i]);
    return rota_packed(&writer);
}

/* `items`: key, value, key, value, ...; `count`: of both together. */
static inline rota_value rota_map_of(const rota_value *items, uint32_t count) {
    rota_writer writer = {NULL, 0, 0};
    rota_write_map(&writer, count / 2);
    for (uint32_t i = 0; i < count; i++) rota_write_value(&writer, items[i]);
    return rota_packed(&writer);
}

static inline bool rota_is_none(rota_value value) { return !value.packed.data || *value.packed.data == 0xc0; }

static inline bool rota_same_values(rota_value left, rota_value right) {
    return (rota_is_none(left) && rota_is_none(right)) || rota_equal(left.packed, right.packed);
}

ROTA_NORETURN rota_bad_value(const char *wanted) {
    rota_fail_with(ROTA_TEXT("bad_value"), rota_string(wanted));
}

/* The number; fails the task with `bad_value` if it is none or no integer of 64 bits. */
static inline int64_t rota_as_int(rota_value value) {
    rota_reader reader = rota_read(value.packed);
    int64_t number = rota_read_int(&reader);
    if (!value.packed.data || reader.bad) rota_bad_value("an integer is needed");
    return number;
}

/* The number, or `otherwise` if there is no value. */
static inline int64_t rota_int_or(rota_value value, int64_t otherwise) {
    return rota_is_none(value) ? otherwise : rota_as_int(value);
}

/* The number, also of an integer; fails the task with `bad_value` otherwise. */
static inline double rota_as_float(rota_value value) {
    rota_reader reader = rota_read(value.packed);
    uint32_t tag = value.packed.data ? *value.packed.data : 0xc0;
    if (tag == 0xca || tag == 0xcb) return rota_read_float(&reader);
    return (double)rota_as_int(value);
}

static inline bool rota_as_bool(rota_value value) {
    uint32_t tag = value.packed.data ? *value.packed.data : 0xc0;
    if (tag != 0xc2 && tag != 0xc3) rota_bad_value("true or false is needed");
    return tag == 0xc3;
}

/* The content of text or bytes; fails the task with `bad_value` otherwise. */
static inline rota_bytes rota_as_bytes(rota_value value) {
    rota_reader reader = rota_read(value.packed);
    rota_bytes bytes = value.packed.data ? rota_read_bytes(&reader) : ROTA_NIL;
    if (reader.bad || !bytes.data) rota_bad_value("text or bytes are needed");
    return bytes;
}

/* How many items a list has, or pairs a map; 0 for any other value. */
static inline uint32_t rota_count(rota_value value) {
    rota_reader reader = rota_read(value.packed), again = reader;
    if (!value.packed.data) return 0;
    uint32_t count = rota_read_array(&reader);
    return reader.bad ? rota_read_map(&again) : count;
}

static inline rota_value rota_next(rota_reader *reader) {
    const uint8_t *start = reader->at;
    rota_skip(reader);
    return reader->bad ? ROTA_NONE : (rota_value){{start, (uint32_t)(reader->at - start)}};
}

/* Item `index` of a list, from 0; of a map its keys and values in turn: the key of pair i is item 2i. None: no such. */
static inline rota_value rota_at(rota_value value, uint32_t index) {
    rota_reader reader = rota_read(value.packed), again = reader;
    uint32_t count = value.packed.data ? rota_read_array(&reader) : 0;
    if (reader.bad) {
        reader = again;
        count = 2 * rota_read_map(&reader);
    }
    for (uint32_t i = 0; i < index && i < count; i++) rota_skip(&reader);
    return index < count ? rota_next(&reader) : ROTA_NONE;
}

/* The value of `key` in a map; none if it is no map or has no such key. */
static inline rota_value rota_get_bytes(rota_value map, rota_bytes key) {
    rota_reader reader = rota_read(map.packed);
    if (!map.packed.data) return ROTA_NONE;
    rota_read_key(&reader, key);
    return reader.bad ? ROTA_NONE : rota_next(&reader);
}

/* A map with one value replaced, or added at its end. None counts as an empty map. */
static inline rota_value rota_put_value(rota_value map, rota_bytes key, rota_value value) {
    uint32_t count = rota_count(map), found = count;
    for (uint32_t i = 0; i < count && found == count; i++)
        if (rota_same_values(rota_at(map, 2 * i), rota_text(key))) found = i;
    rota_writer writer = {NULL, 0, 0};
    rota_write_map(&writer, found == count ? count + 1 : count);
    for (uint32_t i = 0; i < 2 * count; i++) rota_write_value(&writer, i == 2 * found + 1 ? value : rota_at(map, i));
    if (found == count) {
        rota_write_str(&writer, key);
        rota_write_value(&writer, value);
    }
    return rota_packed(&writer);
}

/* A list with one more item at its end. None counts as an empty list. */
static inline rota_value rota_push_value(rota_value list, rota_value item) {
    uint32_t count = rota_count(list);
    rota_reader reader = rota_read(list.packed);
    rota_writer writer = {NULL, 0, 0};
    rota_write_array(&writer, count + 1);
    if (list.packed.data) rota_read_array(&reader);
    rota_write_raw(&writer, (rota_bytes){reader.at, (uint32_t)(reader.end - reader.at)});
    rota_write_value(&writer, item);
    return rota_packed(&writer);
}

/* A value as a payload: bytes and text as they are, any other value as MessagePack. */
static inline rota_bytes rota_payload_of(rota_value value) {
    rota_reader reader = rota_read(value.packed);
    if (rota_is_none(value)) return ROTA_TEXT("\xc0");
    rota_bytes content = rota_read_bytes(&reader);
    return reader.bad ? value.packed : content;
}

/* --- what was given, as what is wanted --------------------------------------------------------------------------- */

/* ROTA_VALUE(x): an integer, a double, a bool, a string or bytes as a value. In C a literal `true` is an integer: write
 * rota_bool(true). ROTA_BYTES(x): a string, or the content of a text, as bytes. ROTA_JOIN(a, b, ...): the bytes of each,
 * one after the other. ROTA_LIST(a, b, ...) and ROTA_MAP("key", value, ...): values of what was given.
 */
#ifdef __cplusplus

static inline rota_bytes rota_bytes_of(rota_bytes bytes) { return bytes; }
static inline rota_bytes rota_bytes_of(const char *text) { return rota_string(text); }
static inline rota_bytes rota_bytes_of(rota_value value) { return rota_as_bytes(value); }
static inline rota_value rota_value_of(rota_value value) { return value; }
static inline rota_value rota_value_of(rota_bytes bytes) { return rota_bin(bytes); }
static inline rota_value rota_value_of(const char *text) { return rota_text_of(text); }
static inline rota_value rota_value_of(bool value) { return rota_bool(value); }
static inline rota_value rota_value_of(double value) { return rota_float(value); }
template <class T> static inline rota_value rota_value_of(T value) { return rota_int((int64_t)value); }
static inline rota_bytes rota_payload(rota_bytes bytes) { return bytes; }
template <class T> static inline rota_bytes rota_payload(T value) { return rota_payload_of(rota_value_of(value)); }
template <class... T> static inline rota_bytes rota_join_all(T... parts) {
    const rota_bytes all[] = {rota_bytes_of(parts)...};
    return rota_join(all, sizeof...(T));
}
template <class... T> static inline rota_value rota_list_all(T... items) {
    const rota_value all[] = {ROTA_NONE, rota_value_of(items)...};
    return rota_list_of(all + 1, sizeof...(T));
}
template <class... T> static inline rota_value rota_map_all(T... items) {
    const rota_value all[] = {ROTA_NONE, rota_value_of(items)...};
    return rota_map_of(all + 1, sizeof...(T));
}
#ifdef ROTA_FLOW
static inline rota_bytes rota_keep_of(rota_bytes bytes) { return rota_keep_bytes(bytes); }
static inline rota_value rota_keep_of(rota_value value) { return (rota_value){rota_keep_bytes(value.packed)}; }
#define ROTA_KEEP(x) rota_keep_of(x)
#endif
#define ROTA_BYTES(x) rota_bytes_of(x)
#define ROTA_VALUE(x) rota_value_of(x)
#define ROTA_PAYLOAD(x) rota_payload(x)
#define ROTA_JOIN(...) rota_join_all(__VA_ARGS__)
#define ROTA_LIST(...) rota_list_all(__VA_ARGS__)
#define ROTA_MAP(...) rota_map_all(__VA_ARGS__)

#else

static inline rota_bytes rota_payload_of_int(int64_t value) { return rota_int(value).packed; }
static inline rota_bytes rota_payload_of_float(double value) { return rota_float(value).packed; }
static inline rota_bytes rota_payload_of_bool(bool value) { return rota_bool(value).packed; }

#define ROTA_BYTES(x) \
    _Generic((x), rota_bytes: rota_same, rota_value: rota_as_bytes, char *: rota_string, const char *: rota_string)(x)
#define ROTA_VALUE(x) \
    _Generic((x), rota_value: rota_same_value, rota_bytes: rota_bin, char *: rota_text_of, const char *: rota_text_of, \
        bool: rota_bool, float: rota_float, double: rota_float, default: rota_int)(x)
#define ROTA_PAYLOAD(x) \
    _Generic((x), rota_value: rota_payload_of, rota_bytes: rota_same, char *: rota_string, const char *: rota_string, \
        bool: rota_payload_of_bool, float: rota_payload_of_float, double: rota_payload_of_float, \
        default: rota_payload_of_int)(x)

#ifdef ROTA_FLOW
static inline rota_value rota_keep_value(rota_value value) { return (rota_value){rota_keep_bytes(value.packed)}; }
#define ROTA_KEEP(x) _Generic((x), rota_bytes: rota_keep_bytes, rota_value: rota_keep_value)(x)
#endif

#define ROTA_PARENS ()
#define ROTA_EXPAND(...) ROTA_EXPAND3(ROTA_EXPAND3(ROTA_EXPAND3(__VA_ARGS__)))
#define ROTA_EXPAND3(...) ROTA_EXPAND2(ROTA_EXPAND2(ROTA_EXPAND2(__VA_ARGS__)))
#define ROTA_EXPAND2(...) ROTA_EXPAND1(ROTA_EXPAND1(ROTA_EXPAND1(__VA_ARGS__)))
#define ROTA_EXPAND1(...) __VA_ARGS__
#define ROTA_EACH(f, ...) __VA_OPT__(ROTA_EXPAND(ROTA_EACH_NEXT(f, __VA_ARGS__)))
#define ROTA_EACH_NEXT(f, x, ...) f(x), __VA_OPT__(ROTA_EACH_AGAIN ROTA_PARENS(f, __VA_ARGS__))
#define ROTA_EACH_AGAIN() ROTA_EACH_NEXT

#define ROTA_OVER(function, type, f, ...) \
    function( \
        (const type[]){ROTA_EACH(f, __VA_ARGS__)}, sizeof((const type[]){ROTA_EACH(f, __VA_ARGS__)}) / sizeof(type) \
    )
#define ROTA_JOIN(...) ROTA_OVER(rota_join, rota_bytes, ROTA_BYTES, __VA_ARGS__)
#define ROTA_LIST(...) ROTA_OVER(rota_list_of, rota_value, ROTA_VALUE, __VA_ARGS__)
#define ROTA_MAP(...) ROTA_OVER(rota_map_of, rota_value, ROTA_VALUE, __VA_ARGS__)

#endif

#define rota_get(map, key) rota_get_bytes(map, ROTA_BYTES(key))
#define rota_put(map, key, value) rota_put_value(map, ROTA_BYTES(key), ROTA_VALUE(value))
#define rota_push(list, item) rota_push_value(list, ROTA_VALUE(item))

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

static const char *const rota_kind_names[] = {"tell", "ask", "reply", "failure", "timer"};

/* A tensor by reference. Its data stays outside: rota_tensor_read copies the part that is wanted. */
typedef struct {
    rota_bytes digest; /* 32 bytes, of dtype, shape and data */
    rota_bytes dtype;  /* "float32", ... */
    uint32_t dimensions;
    const uint64_t *shape;
} rota_tensor;

typedef struct {
    rota_kind kind;
    rota_bytes sender;   /* the agent it came from; data is NULL when it came from outside */
    rota_bytes payload;
    rota_value value;    /* the payload as one MessagePack value; a failure's is [kind, message] */
    uint64_t turn;       /* position of this task in the lane, from 1 */
    uint64_t now_ms;     /* wall-clock milliseconds at which the input it descends from arrived */
    rota_bytes entropy;  /* 32 random bytes, the same in every replay */
    bool answers;        /* kind reply or failure: the next three say what it answers */
    uint64_t reply_to;   /* the turn of the task that was asked */
    uint64_t asked_in;   /* the turn in which this agent asked, as `turn` was then */
    uint64_t emit;       /* what rota_ask returned then */
    rota_bytes address;  /* the agent's own */
    uint32_t tensor_count;
    const rota_tensor *tensors;
    uint32_t first_tensor; /* index of the first of them: in a flow all tensors of the call are counted, else 0 */
} rota_message;

/* `state`: none at first. What it is when the agent returns is what the next message sees. */
typedef struct {
    rota_message message;
    rota_value state;
} rota_context;

/* --- kind `agent`: what it may say ------------------------------------------------------------------------------- */

static struct {
    rota_bytes address, result, waits;
    uint64_t turn;
    rota_writer emits, tensors;
    uint32_t emit_count, tensor_count;
    bool has_result;
} rota_answer;

/* What may follow a payload: `.priority = -8` (last) to `7` (first); tensors, by index in the message's own or as
 * rota_tensor_new returned them; of rota_ask and rota_hand_on a deadline, in milliseconds after this task's `now_ms`
 * (handing on can only bring one forward); of rota_hand_on the turn that was postponed, if not this one.
 */
typedef struct {
    int priority;
    const uint32_t *tensors;
    uint32_t tensor_count;
    uint64_t deadline_ms;
    uint64_t turn;
} rota_options;

/* rota_reply(payload), or with tensors: rota_reply(payload, .tensors = chosen, .tensor_count = 2). The result of the
 * task; the last call counts. A payload in memory of rota_new is not copied: leave it as it is then.
 */
#define rota_reply(payload, ...) rota_reply_with(ROTA_PAYLOAD(payload), (rota_options){__VA_ARGS__})

/* rota_emit(target, payload), rota_emit(target, payload, .priority = 3): send a message that gets no answer. */
#define rota_emit(target, payload, ...) \
    rota_emit_with(ROTA_TELL, ROTA_BYTES(target), ROTA_PAYLOAD(payload), (rota_emit_place){0, 0}, \
        (rota_options){__VA_ARGS__})

/* The same, but the outcome comes back as a later message. Returns what its `emit` will be. */
#define rota_ask(target, payload, ...) \
    rota_ask_with(ROTA_BYTES(target), ROTA_PAYLOAD(payload), (rota_options){__VA_ARGS__})

/* `payload` comes back to this agent as kind timer, `delay_ms` after this task's `now_ms`. */
#define rota_timer(delay_ms, payload) \
    rota_emit_with(ROTA_TIMER, rota_answer.address, ROTA_PAYLOAD(payload), (rota_emit_place){delay_ms, 0}, \
        (rota_options){0, NULL, 0, 0, 0})

#ifdef ROTA_FLOW
/* The call goes on with the answer to what it has asked, or with a timer. Without it the message ends the call. */
#define rota_wait() (void)(rota_answer.waits = ROTA_TEXT(__FILE_NAME__ ":" ROTA_TEXT_OF(__LINE__)))
#define ROTA_TEXT_OF(line) ROTA_TEXT_OF_IT(line)
#define ROTA_TEXT_OF_IT(line) #line

/* rota_keep(bytes), rota_keep(value): a copy that lasts until the call ends. */
#define rota_keep(x) ROTA_KEEP(x)
#else
/* This task has no result yet: whoever asked gets one when a later message settles the turn that this returns. */
#define rota_postpone() rota_postpone_it()

/* The answer to a task that was postponed in `turn`; rota_settle(turn, payload, .tensors = ...) sends tensors along. */
#define rota_settle(turn, payload, ...) \
    rota_emit_with(ROTA_REPLY, rota_answer.address, ROTA_PAYLOAD(payload), (rota_emit_place){0, turn}, \
        (rota_options){__VA_ARGS__})

/* Whoever asked gets the failure `error` "code: message". */
#define rota_settle_failure(turn, code, message) \
    rota_settle_failure_bytes(turn, ROTA_BYTES(code), ROTA_BYTES(message))

/* Another agent answers in place of this one: this task, or with .turn = ... one that was postponed. */
#define rota_hand_on(target, payload, ...) \
    rota_hand_on_with(ROTA_BYTES(target), ROTA_PAYLOAD(payload), (rota_options){__VA_ARGS__})
#endif

/* A line for the operator, written at once; it must be UTF-8. */
#define rota_log(text) rota_log_bytes(ROTA_BYTES(text))

#define rota_fail(code, message) rota_fail_with(ROTA_BYTES(code), ROTA_BYTES(message))

static inline void rota_log_bytes(rota_bytes text) { rota_import_log(text.data, text.size); }

static inline void rota_write_indices(rota_writer *writer, rota_options options) {
    for (uint32_t i = 0; i < options.tensor_count; i++) rota_write_uint(writer, options.tensors[i]);
}

static inline void rota_reply_with(rota_bytes payload, rota_options options) {
    bool lasts = (uintptr_t)payload.data >= (uintptr_t)&__heap_base; /* what is on the stack ends before the answer */
    rota_answer.result = lasts ? payload : rota_join(&payload, 1);
    rota_answer.has_result = true;
    rota_answer.tensors = (rota_writer){NULL, 0, 0};
    rota_answer.tensor_count = options.tensor_count;
    rota_write_indices(&rota_answer.tensors, options);
}

/* What an emit has only sometimes: the delay of a timer or deadline of an ask, and the turn that it answers. */
typedef struct {
    uint64_t delay_ms, answers;
} rota_emit_place;

static inline uint32_t rota_emit_with(
    rota_kind kind, rota_bytes target, rota_bytes payload, rota_emit_place place, rota_options options
) {
    rota_writer *emits = &rota_answer.emits;
    bool delayed = kind == ROTA_TIMER || place.delay_ms;
    rota_write_array(emits, place.answers ? 7 : delayed ? 6 : 5);
    rota_write_str(emits, target);
    rota_write_bin(emits, payload);
    rota_write_int(emits, options.priority);
    rota_write_str(emits, rota_string(rota_kind_names[kind]));
    rota_write_array(emits, options.tensor_count);
    rota_write_indices(emits, options);
    if (delayed || place.answers) rota_write_uint(emits, place.delay_ms);
    if (place.answers) rota_write_uint(emits, place.answers);
    return rota_answer.emit_count++;
}

static inline uint32_t rota_ask_with(rota_bytes target, rota_bytes payload, rota_options options) {
    return rota_emit_with(ROTA_ASK, target, payload, (rota_emit_place){options.deadline_ms, 0}, options);
}

#ifndef ROTA_FLOW
static inline uint64_t rota_postpone_it(void) {
    rota_answer.waits = ROTA_TEXT("");
    return rota_answer.turn;
}

static inline void rota_settle_failure_bytes(uint64_t turn, rota_bytes code, rota_bytes message) {
    const rota_value failure[] = {rota_text(code), rota_text(message)};
    rota_bytes payload = rota_list_of(failure, 2).packed;
    rota_options none = {0, NULL, 0, 0, 0};
    rota_emit_with(ROTA_FAILURE, rota_answer.address, payload, (rota_emit_place){0, turn}, none);
}

static inline void rota_hand_on_with(rota_bytes target, rota_bytes payload, rota_options options) {
    uint64_t turn = options.turn ? options.turn : rota_answer.turn;
    if (turn == rota_answer.turn) rota_postpone_it();
    rota_emit_with(ROTA_ASK, target, payload, (rota_emit_place){options.deadline_ms, turn}, options);
}
#endif

/* Make a tensor that emits and the reply may name; `data` is in C order, little-endian. Returns its index. */
static inline uint32_t rota_tensor_new(
    const char *dtype, const uint64_t *shape, uint32_t rank, const void *data, uint32_t size
) {
    rota_bytes name = rota_string(dtype);
    int32_t index = rota_import_tensor_new(name.data, name.size, shape, rank, data, size);
    if (index < 0) rota_fail_with(ROTA_TEXT("bad_tensor"), ROTA_TEXT("dtype, shape and data do not fit, or too many"));
    return (uint32_t)index;
}

/* --- kind `agent`: between the two ------------------------------------------------------------------------------- */

#define ROTA_ABI 1

#ifdef ROTA_FLOW
static void flow(rota_context *ctx);
#define ROTA_HANDLER flow
static uint32_t rota_tensors_before; /* of the messages of the call that came before this one */

ROTA_EXPORT("rota_flow") void rota_flow(void) {} /* says at the deploy that this is a flow */

/* End the call as an answer that is a failure does where nobody handles it. */
ROTA_NORETURN rota_fail_as_asked(const rota_context *ctx) {
    rota_value kind = rota_at(ctx->message.value, 0), message = rota_at(ctx->message.value, 1);
    const rota_bytes text[] = {rota_as_bytes(kind), ROTA_TEXT(": "), rota_as_bytes(message)};
    rota_fail_with(ROTA_TEXT("AskFailed"), rota_join(text, 3));
}
#else
static void agent(rota_context *ctx);
#define ROTA_HANDLER agent
#endif

static inline void rota_read_tensors(rota_reader *reader, rota_message *message) {
    message->tensor_count = rota_read_array(reader);
    rota_tensor *tensors = (rota_tensor *)rota_new((uint64_t)message->tensor_count * sizeof(rota_tensor));
    for (uint32_t i = 0; i < message->tensor_count; i++) {
        if (rota_read_array(reader) != 3) reader->bad = true;
        tensors[i].digest = rota_read_bytes(reader);
        tensors[i].dtype = rota_read_bytes(reader);
        tensors[i].dimensions = rota_read_array(reader);
        uint64_t *shape = (uint64_t *)rota_new((uint64_t)tensors[i].dimensions * sizeof(uint64_t));
        for (uint32_t d = 0; d < tensors[i].dimensions; d++) shape[d] = rota_read_uint(reader);
        tensors[i].shape = shape;
    }
    message->tensors = tensors;
}

static inline rota_kind rota_read_kind(rota_reader *reader) {
    rota_bytes name = rota_read_bytes(reader);
    for (uint32_t i = 0; i < sizeof rota_kind_names / sizeof *rota_kind_names; i++)
        if (rota_equal(name, rota_string(rota_kind_names[i]))) return (rota_kind)i;
    reader->bad = true;
    return ROTA_TELL;
}

/* Fields after the eleventh are left alone: a later host may add some. */
static inline bool rota_read_message(rota_reader *reader, rota_context *ctx) {
    rota_message *message = &ctx->message;
    if (rota_read_array(reader) < 11 || rota_read_uint(reader) != ROTA_ABI) return false;
    ctx->state.packed = rota_read_bytes(reader);
    message->kind = rota_read_kind(reader);
    message->sender = rota_read_bytes(reader);
    message->payload = rota_read_bytes(reader);
    message->value.packed = message->payload;
    message->turn = rota_read_uint(reader);
    message->now_ms = rota_read_uint(reader);
    message->entropy = rota_read_bytes(reader);
    message->answers = !rota_read_nil(reader);
    if (message->answers) {
        if (rota_read_array(reader) != 3) return false;
        message->reply_to = rota_read_uint(reader);
        message->asked_in = rota_read_uint(reader);
        message->emit = rota_read_uint(reader);
    }
    rota_read_tensors(reader, message);
    message->address = rota_read_bytes(reader);
    return !reader->bad;
}

static inline void rota_write_list(rota_writer *writer, uint32_t count, const rota_writer *items) {
    rota_write_array(writer, count);
    rota_write_raw(writer, rota_written(items));
}

static inline rota_bytes rota_pack_answer(rota_value before, rota_value state) {
    rota_writer writer = {NULL, 0, 0};
    bool waits = rota_answer.waits.data;
    rota_write_array(&writer, waits ? 8 : rota_answer.tensor_count ? 7 : 6);
    rota_write_uint(&writer, ROTA_ABI);
    rota_write_uint(&writer, 0);
    if (rota_same_values(before, state)) rota_write_nil(&writer);
    else rota_write_bin(&writer, rota_is_none(state) ? ROTA_TEXT("\xc0") : state.packed);
    if (rota_answer.has_result) rota_write_bin(&writer, rota_answer.result);
    else rota_write_nil(&writer);
    rota_write_list(&writer, rota_answer.emit_count, &rota_answer.emits);
    rota_write_array(&writer, 0); /* log: rota_log has written it */
    if (waits || rota_answer.tensor_count) rota_write_list(&writer, rota_answer.tensor_count, &rota_answer.tensors);
    if (waits) rota_write_str(&writer, rota_answer.waits);
    return rota_written(&writer);
}

ROTA_EXPORT("rota_step") uint64_t rota_step(const uint8_t *data, uint32_t size) {
    rota_reader reader = rota_read((rota_bytes){data, size});
    rota_context ctx;
    __builtin_memset(&ctx, 0, sizeof ctx);
    __builtin_memset(&rota_answer, 0, sizeof rota_answer);
    if (!rota_read_message(&reader, &ctx))
        rota_fail_with(ROTA_TEXT("abi"), ROTA_TEXT("this agent knows version 1 of the input array only"));
    rota_answer.address = ctx.message.address;
    rota_answer.turn = ctx.message.turn;
    rota_value before = ctx.state;
#ifdef ROTA_FLOW
    ctx.message.first_tensor = rota_tensors_before;
    rota_tensors_before += ctx.message.tensor_count;
#endif
    ROTA_HANDLER(&ctx);
    rota_bytes answer = rota_pack_answer(before, ctx.state);
    rota_answered = true;
    return (uint64_t)(uintptr_t)answer.data << 32 | answer.size;
}

#endif
#endif
