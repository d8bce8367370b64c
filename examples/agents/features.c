/* features: asks the magika model for the type of a file and sends it to a tally. Part of the demo (scripts/demo.py).
 *
 *     file -> features/<n> -> model:magika -> features/<n> -> tally/<label>
 *
 * Payload, MessagePack: [path, size, head, tail]. `head` is the first and `tail` the last min(size, 4096) bytes of
 * the file; `tail` may be nil when size <= 4096, since it is the same then. docs/MODELS.md describes how they become
 * features; examples/magika_features.py is the reference in Python (rules of magika 1.0.3,
 * https://github.com/google/magika, Apache-2.0), and tests compare the two byte by byte. The label table is
 * magika_labels.h.
 *
 * The state is the queue of files without an answer yet, MessagePack [[path, size], ...], oldest first. Which ask an
 * answer is for (`asked_in`) need not be looked up: asks of one agent with the same priority are issued, and in a
 * `derived` lane retired, in the order in which they were emitted, so replies arrive in that order. A failure takes
 * its place in the queue like a reply and is sent to tally/failed. Where that order does not hold (a `recorded` lane,
 * or asks cancelled before they are issued) give each file its own key.
 */
#include "rota.h"
#include "magika_labels.h"

enum { BLOCK_BYTES = 4096, END_TOKENS = 1024, PADDING = 256, SIZE_MIN = 8 };

typedef struct {
    rota_bytes path, head, tail;
    uint64_t size;
} file;

/* Tell the label's tally and make the label the result. */
static void tell_label(rota_bytes label, rota_bytes path, uint64_t size, float score) {
    rota_writer payload = {0};
    rota_write_array(&payload, 4);
    rota_write_str(&payload, label);
    rota_write_str(&payload, path);
    rota_write_uint(&payload, size);
    rota_write_float32(&payload, score);
    rota_emit(ROTA_JOIN(ROTA_TEXT("tally/"), label), rota_written(&payload));
    rota_reply(label);
}

/* --- a file comes in --------------------------------------------------------------------------------------------- */

static bool read_file(rota_bytes payload, file *out) {
    rota_reader reader = rota_read(payload);
    bool good = rota_read_array(&reader) == 4;
    out->path = rota_read_bytes(&reader);
    out->size = rota_read_uint(&reader);
    out->head = rota_read_bytes(&reader);
    out->tail = rota_read_bytes(&reader);
    uint64_t part = out->size < BLOCK_BYTES ? out->size : BLOCK_BYTES;
    if (!out->tail.data && out->size <= BLOCK_BYTES) out->tail = out->head;
    return good && !reader.bad && out->path.data && out->head.size == part && out->tail.size == part;
}

static bool is_white(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static bool is_utf8(rota_bytes text) {
    for (uint32_t i = 0; i < text.size;) {
        uint8_t first = text.data[i++];
        uint32_t more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
        if ((first >= 0x80 && first < 0xc2) || first > 0xf4 || more > text.size - i) return false;
        for (uint32_t k = 0; k < more; k++) {
            uint8_t next = text.data[i++];
            uint8_t low = k > 0 ? 0x80 : first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80; /* no overlong forms */
            uint8_t high = k > 0 ? 0xbf : first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf; /* no surrogates */
            if (next < low || next > high) return false;
        }
    }
    return true;
}

/* Fill the model's input; false where too few bytes are left to ask the model. */
static bool make_tokens(const file *in, int32_t tokens[2 * END_TOKENS]) {
    rota_bytes head = in->head, tail = in->tail;
    for (; head.size > 0 && is_white(head.data[0]); head.data++, head.size--);
    for (; tail.size > 0 && is_white(tail.data[tail.size - 1]); tail.size--);
    if (head.size < SIZE_MIN) return false;
    for (uint32_t i = 0; i < END_TOKENS; i++) {
        tokens[i] = i < head.size ? head.data[i] : PADDING;
        tokens[2 * END_TOKENS - 1 - i] = i < tail.size ? tail.data[tail.size - 1 - i] : PADDING;
    }
    return true;
}

static void ask_model(const int32_t tokens[2 * END_TOKENS]) {
    rota_writer payload = {0};
    rota_write_map(&payload, 1);
    rota_write_str(&payload, ROTA_TEXT("inputs"));
    rota_write_map(&payload, 1);
    rota_write_str(&payload, ROTA_TEXT("bytes"));
    rota_write_array(&payload, 3);
    rota_write_str(&payload, ROTA_TEXT("int32"));
    rota_write_array(&payload, 2);
    rota_write_uint(&payload, 1);
    rota_write_uint(&payload, 2 * END_TOKENS);
    rota_write_bin(&payload, (rota_bytes){(const uint8_t *)tokens, 2 * END_TOKENS * sizeof *tokens});
    rota_ask(ROTA_TEXT("model:magika"), rota_written(&payload));
}

/* Put the file at the end of the queue. */
static void remember(rota_context *ctx, const file *in) {
    rota_reader queue = rota_read(ctx->state.packed);
    uint32_t count = ctx->state.packed.data ? rota_read_array(&queue) : 0;
    rota_writer longer = {0};
    rota_write_array(&longer, count + 1);
    rota_write_raw(&longer, (rota_bytes){queue.at, (uint32_t)(queue.end - queue.at)});
    rota_write_array(&longer, 2);
    rota_write_str(&longer, in->path);
    rota_write_uint(&longer, in->size);
    ctx->state = rota_packed(&longer);
}

static void take_file(rota_context *ctx) {
    file in;
    if (!read_file(ctx->message.payload, &in)) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [path, size, head, tail], see features.c"));
        return;
    }
    int32_t *tokens = rota_new(2 * END_TOKENS * sizeof *tokens);
    if (in.size == 0) tell_label(ROTA_TEXT("empty"), in.path, 0, 1);
    else if (in.size >= SIZE_MIN && make_tokens(&in, tokens)) {
        ask_model(tokens);
        remember(ctx, &in);
    } else tell_label(is_utf8(in.head) ? ROTA_TEXT("txt") : ROTA_TEXT("unknown"), in.path, in.size, 1);
}

/* --- an answer comes back ---------------------------------------------------------------------------------------- */

/* Take the oldest file off the queue; false where nothing is outstanding. */
static bool recall(rota_context *ctx, file *out) {
    rota_reader queue = rota_read(ctx->state.packed);
    uint32_t count = ctx->state.packed.data ? rota_read_array(&queue) : 0;
    if (count == 0) return false;
    rota_read_array(&queue);
    out->path = rota_read_bytes(&queue);
    out->size = rota_read_uint(&queue);
    rota_writer shorter = {0};
    rota_write_array(&shorter, count - 1);
    rota_write_raw(&shorter, (rota_bytes){queue.at, (uint32_t)(queue.end - queue.at)});
    ctx->state = rota_packed(&shorter);
    return true;
}

/* Return the scores, float32 in the order of the labels, or ROTA_NIL where the answer has another form. */
static rota_bytes read_scores(rota_bytes answer) {
    rota_reader reader = rota_read(answer);
    rota_read_key(&reader, ROTA_TEXT("outputs"));
    rota_read_key(&reader, ROTA_TEXT("target_label"));
    bool good = rota_read_array(&reader) == 3 && rota_equal(rota_read_bytes(&reader), ROTA_TEXT("float32"));
    rota_skip(&reader); /* the shape: the number of bytes says enough */
    rota_bytes scores = rota_read_bytes(&reader);
    return good && !reader.bad && scores.size == MAGIKA_LABELS * sizeof(float) ? scores : ROTA_NIL;
}

static void take_scores(rota_bytes raw, const file *of) {
    float scores[MAGIKA_LABELS];
    rota_copy((uint8_t *)scores, raw);
    uint32_t best = 0;
    for (uint32_t i = 1; i < MAGIKA_LABELS; i++)
        if (scores[i] > scores[best]) best = i;
    const magika_label *label = &magika_labels[best];
    rota_bytes name = label->is_text ? ROTA_TEXT("txt") : ROTA_TEXT("unknown");
    if ((double)scores[best] >= label->threshold) name = label->output;
    tell_label(name, of->path, of->size, scores[best]);
}

static void take_answer(rota_context *ctx) {
    file of;
    if (!recall(ctx, &of)) {
        rota_fail(ROTA_TEXT("not_asked"), ROTA_TEXT("an answer came, but no file waits for one"));
        return;
    }
    rota_bytes scores = ctx->message.kind == ROTA_REPLY ? read_scores(ctx->message.payload) : ROTA_NIL;
    if (scores.data) {
        take_scores(scores, &of);
        return;
    }
    rota_log(ROTA_JOIN(ROTA_TEXT("no usable answer from the model for "), of.path));
    tell_label(ROTA_TEXT("failed"), of.path, of.size, 0);
}

static void agent(rota_context *ctx) {
    if (ctx->message.answers) take_answer(ctx);
    else take_file(ctx);
}
