/* department: one department of a shop's mail room, named by its key. Part of scripts/demo.py agents.
 *
 *     desk/main -> department/<name> -> model:smollm2 -> department/<name> -> critic/main, desk/main
 *
 * Two messages, MessagePack:
 *
 *     ["bid", number, text]    asks the model how well the department's name completes the text, tells critic/main
 *                              [number, name, bid]; a bid is a log-probability in millionths
 *     ["title", number, text]  asks the model for a title of the text, tells desk/main ["title", number, title]
 *
 * A bid is a prompt with examples, and an output that only the name fits: so its log-probability comes back. A title
 * continues one short conversation in which the department was told its work. The conversation is held once, and each
 * title forks it at the same head, so an ask carries 32 bytes and the new text only. While the head is not there yet,
 * texts wait in the state.
 *
 * The state is [head or nil, waiting, asks]: `waiting` are [number, text] that want a title, `asks` the asks without an
 * answer, oldest first, as [what, number]. Asks of one agent with the same priority are answered in their order in a
 * derived lane, so the answer is for the oldest.
 */
#include "rota.h"

#define EXAMPLE(text, name) "Message: " text "\nDepartment: " name "\n\n"
#define MODEL ROTA_TEXT("model:smollm2")

static const char EXAMPLES[] =
    EXAMPLE("I was charged twice for my subscription this month.", "billing")
    EXAMPLE("My package has not arrived and it is a week late.", "delivery")
    EXAMPLE("The app crashes every time I open it.", "technical")
    EXAMPLE("The shoes are too small and I want to send them back.", "returns")
    EXAMPLE("I would like to exchange this shirt for a blue one.", "returns")
    EXAMPLE("I cannot log in, the page shows an error.", "technical")
    EXAMPLE("Can you change the address my order is shipped to?", "delivery")
    EXAMPLE("Please send me a copy of my last invoice.", "billing");

#define PAIR(message, title) {{(const uint8_t *)message, sizeof message - 1}, {(const uint8_t *)title, sizeof title - 1}}

static const rota_bytes TEACHING[][2] = {
    PAIR("I was charged twice for my subscription this month.", "Charged twice for subscription"),
    PAIR("Can you change the address my order is shipped to?", "Change of shipping address"),
    PAIR("The app crashes every time I open it.", "App crashes when opened"),
    PAIR("How do I reset my password?", "Password reset"),
    PAIR("The shoes are too small and I want to send them back.", "Return of small shoes"),
    PAIR("My package has not arrived and it is a week late.", "Package is a week late"),
};

typedef struct {
    rota_bytes head;
    rota_writer waiting, asks; /* the elements without the length before them */
    uint32_t waiting_count, ask_count;
} department;

/* --- the state --------------------------------------------------------------------------------------------------- */

static rota_bytes between(const rota_reader *from, const rota_reader *to) {
    return (rota_bytes){from->at, (uint32_t)(to->at - from->at)};
}

static uint32_t take_list(rota_reader *reader, rota_writer *into) {
    uint32_t count = rota_read_array(reader);
    rota_reader start = *reader;
    for (uint32_t i = 0; i < count; i++) rota_skip(reader);
    rota_write_raw(into, between(&start, reader));
    return count;
}

static department recall(rota_bytes state) {
    department of = {0};
    if (!state.data) return of;
    rota_reader reader = rota_read(state);
    rota_read_array(&reader);
    of.head = rota_read_bytes(&reader);
    of.waiting_count = take_list(&reader, &of.waiting);
    of.ask_count = take_list(&reader, &of.asks);
    return of;
}

static void keep(rota_context *ctx, const department *of) {
    rota_writer state = {0};
    rota_write_array(&state, 3);
    if (of->head.data) rota_write_bin(&state, of->head);
    else rota_write_nil(&state);
    rota_write_list(&state, of->waiting_count, &of->waiting);
    rota_write_list(&state, of->ask_count, &of->asks);
    ctx->state = rota_packed(&state);
}

/* --- asking the model -------------------------------------------------------------------------------------------- */

static void ask(department *of, rota_bytes what, uint64_t number, const rota_writer *options, uint32_t count) {
    rota_writer call = {0};
    rota_write_map(&call, 1);
    rota_write_str(&call, ROTA_TEXT("generate"));
    rota_write_map(&call, count);
    rota_write_raw(&call, rota_written(options));
    rota_ask(MODEL, rota_written(&call));
    rota_write_array(&of->asks, 2);
    rota_write_str(&of->asks, what);
    rota_write_uint(&of->asks, number);
    of->ask_count++;
}

static void write_choice(rota_writer *options, rota_bytes choice) {
    rota_write_str(options, ROTA_TEXT("output"));
    rota_write_map(options, 1);
    rota_write_str(options, ROTA_TEXT("choices"));
    rota_write_array(options, 1);
    rota_write_str(options, choice);
}

static void ask_bid(department *of, rota_bytes name, uint64_t number, rota_bytes text) {
    rota_writer options = {0};
    rota_write_str(&options, ROTA_TEXT("prompt"));
    rota_bytes examples = {(const uint8_t *)EXAMPLES, sizeof EXAMPLES - 1};
    rota_write_str(&options, ROTA_JOIN(examples, ROTA_TEXT("Message: "), text, ROTA_TEXT("\nDepartment:")));
    write_choice(&options, ROTA_JOIN(ROTA_TEXT(" "), name));
    rota_write_str(&options, ROTA_TEXT("logprobs"));
    rota_write_uint(&options, 0);
    ask(of, ROTA_TEXT("bid"), number, &options, 3);
}

static void write_message(rota_writer *options, rota_bytes role, rota_bytes content) {
    rota_write_map(options, 2);
    rota_write_str(options, ROTA_TEXT("role"));
    rota_write_str(options, role);
    rota_write_str(options, ROTA_TEXT("content"));
    rota_write_str(options, content);
}

static rota_bytes asked(rota_bytes text) { return ROTA_JOIN(ROTA_TEXT("Message: "), text, ROTA_TEXT("\nSubject:")); }

/* Begin the conversation that all titles fork. The last example is an answer of the model itself, which can be no other:
 * a head comes with an answer only.
 */
static void ask_head(department *of) {
    enum { LAST = sizeof TEACHING / sizeof *TEACHING - 1 };
    rota_writer options = {0};
    rota_write_str(&options, ROTA_TEXT("conversation"));
    rota_write_nil(&options);
    rota_write_str(&options, ROTA_TEXT("messages"));
    rota_write_array(&options, 2 * LAST + 2);
    write_message(&options, ROTA_TEXT("system"), ROTA_TEXT(
        "You write the subject line of customer messages: a few words that say what the message is about."));
    for (uint32_t i = 0; i < LAST; i++) {
        write_message(&options, ROTA_TEXT("user"), asked(TEACHING[i][0]));
        write_message(&options, ROTA_TEXT("assistant"), TEACHING[i][1]);
    }
    write_message(&options, ROTA_TEXT("user"), asked(TEACHING[LAST][0]));
    write_choice(&options, TEACHING[LAST][1]);
    ask(of, ROTA_TEXT("head"), 0, &options, 3);
}

static void ask_title(department *of, uint64_t number, rota_bytes text) {
    rota_writer options = {0};
    rota_write_str(&options, ROTA_TEXT("conversation"));
    rota_write_bin(&options, of->head);
    rota_write_str(&options, ROTA_TEXT("messages"));
    rota_write_array(&options, 1);
    write_message(&options, ROTA_TEXT("user"), asked(text));
    rota_write_str(&options, ROTA_TEXT("max_tokens"));
    rota_write_uint(&options, 16);
    rota_write_str(&options, ROTA_TEXT("stop"));
    rota_write_array(&options, 1);
    rota_write_str(&options, ROTA_TEXT("\n"));
    ask(of, ROTA_TEXT("title"), number, &options, 4);
}

/* --- work comes in ----------------------------------------------------------------------------------------------- */

static rota_bytes own_name(rota_context *ctx) {
    rota_bytes name = ctx->message.address;
    while (name.size > 0 && *name.data != '/') name.data++, name.size--;
    if (name.size > 0) name.data++, name.size--;
    return name;
}

static void want_title(department *of, uint64_t number, rota_bytes text) {
    if (of->head.data) {
        ask_title(of, number, text);
        return;
    }
    if (of->waiting_count == 0) ask_head(of);
    rota_write_array(&of->waiting, 2);
    rota_write_uint(&of->waiting, number);
    rota_write_str(&of->waiting, text);
    of->waiting_count++;
}

static void take_work(rota_context *ctx, department *of) {
    rota_reader reader = rota_read(ctx->message.payload);
    bool good = rota_read_array(&reader) == 3;
    rota_bytes what = rota_read_bytes(&reader);
    uint64_t number = rota_read_uint(&reader);
    rota_bytes text = rota_read_bytes(&reader);
    if (good && !reader.bad && rota_equal(what, ROTA_TEXT("bid"))) ask_bid(of, own_name(ctx), number, text);
    else if (good && !reader.bad && rota_equal(what, ROTA_TEXT("title"))) want_title(of, number, text);
    else {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [\"bid\" or \"title\", number, text]"));
        return;
    }
    keep(ctx, of);
}

/* --- an answer comes back ---------------------------------------------------------------------------------------- */

static rota_reader field(rota_bytes answer, rota_bytes key) {
    rota_reader reader = rota_read(answer);
    rota_read_key(&reader, ROTA_TEXT("generate"));
    rota_read_key(&reader, key);
    return reader;
}

static double read_float64(rota_reader *reader) {
    if (rota_read_big_endian(reader, 1) != 0xcb) reader->bad = true;
    uint64_t bits = rota_read_big_endian(reader, 8);
    double value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

/* Tell the critic the log-probability of the name: the sum over its tokens, [[chosen, likeliest], ...]. */
static void take_bid(rota_bytes answer, uint64_t number, rota_bytes name) {
    rota_reader reader = field(answer, ROTA_TEXT("logprobs"));
    double sum = 0;
    for (uint32_t tokens = rota_read_array(&reader); tokens > 0; tokens--) {
        if (rota_read_array(&reader) != 2) reader.bad = true;
        sum += read_float64(&reader);
        rota_skip(&reader);
    }
    if (reader.bad) {
        rota_fail(ROTA_TEXT("bad_answer"), ROTA_TEXT("the model's answer has no log-probabilities"));
        return;
    }
    rota_writer bid = {0};
    rota_write_array(&bid, 3);
    rota_write_uint(&bid, number);
    rota_write_str(&bid, name);
    rota_write_int(&bid, (int64_t)(sum * 1e6));
    rota_emit(ROTA_TEXT("critic/main"), rota_written(&bid));
    rota_reply(rota_written(&bid));
}

static void take_title(rota_bytes answer, uint64_t number) {
    rota_reader reader = field(answer, ROTA_TEXT("text"));
    rota_bytes title = rota_read_bytes(&reader);
    rota_writer news = {0};
    rota_write_array(&news, 3);
    rota_write_str(&news, ROTA_TEXT("title"));
    rota_write_uint(&news, number);
    rota_write_str(&news, title);
    rota_emit(ROTA_TEXT("desk/main"), rota_written(&news));
    rota_reply(title);
}

/* The head is there: ask for the titles that waited for it. */
static void take_head(rota_bytes answer, department *of) {
    rota_reader reader = field(answer, ROTA_TEXT("conversation"));
    of->head = rota_read_bytes(&reader);
    rota_reader waiting = rota_read(rota_written(&of->waiting));
    for (uint32_t i = 0; i < of->waiting_count; i++) {
        rota_read_array(&waiting);
        uint64_t number = rota_read_uint(&waiting);
        ask_title(of, number, rota_read_bytes(&waiting));
    }
    of->waiting = (rota_writer){0};
    of->waiting_count = 0;
}

/* The case stays open, which the desk's report shows. */
static void tell_failure(rota_bytes failure, rota_bytes what) {
    rota_reader reader = rota_read(failure);
    rota_read_array(&reader);
    rota_bytes kind = rota_read_bytes(&reader);
    rota_bytes message = rota_read_bytes(&reader);
    rota_log(ROTA_JOIN(ROTA_TEXT("no "), what, ROTA_TEXT(" from the model: "), kind, ROTA_TEXT(": "), message));
    rota_reply(kind);
}

static void take_answer(rota_context *ctx, department *of) {
    if (of->ask_count == 0) {
        rota_fail(ROTA_TEXT("not_asked"), ROTA_TEXT("an answer came, but none was asked for"));
        return;
    }
    rota_reader oldest = rota_read(rota_written(&of->asks));
    rota_read_array(&oldest);
    rota_bytes what = rota_read_bytes(&oldest);
    uint64_t number = rota_read_uint(&oldest);
    rota_writer rest = {0};
    rota_write_raw(&rest, (rota_bytes){oldest.at, (uint32_t)(oldest.end - oldest.at)});
    of->asks = rest;
    of->ask_count--;
    if (ctx->message.kind == ROTA_FAILURE) tell_failure(ctx->message.payload, what);
    else if (rota_equal(what, ROTA_TEXT("bid"))) take_bid(ctx->message.payload, number, own_name(ctx));
    else if (rota_equal(what, ROTA_TEXT("title"))) take_title(ctx->message.payload, number);
    else take_head(ctx->message.payload, of);
    keep(ctx, of);
}

static void agent(rota_context *ctx) {
    department of = recall(ctx->state.packed);
    if (ctx->message.answers) take_answer(ctx, &of);
    else take_work(ctx, &of);
}
