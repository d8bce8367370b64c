/* desk: the desk of a mail room: it plans who does what with each message, and reports. Part of scripts/demo.py agents.
 *
 *     producer -> desk/main -> department/<name>, critic/main -> desk/main
 *
 * MessagePack:
 *
 *     [text, ...]                            messages of customers, once: tells critic/main how many there are, and
 *                                            asks each of the four departments to bid for each
 *     ["decision", number, winner, loudest]  from the critic: asks the winner for a title of the message
 *     ["title", number, title]               from a department
 *     []                                     result: [[text, winner, loudest, title], ...], nil where not known yet
 *
 * The state is what the last of these gives.
 */
#include "rota.h"

enum { FIELDS = 4, WINNER = 1, LOUDEST = 2, TITLE = 3 };

static const rota_bytes NAMES[] = {
    {(const uint8_t *)"billing", 7},
    {(const uint8_t *)"delivery", 8},
    {(const uint8_t *)"technical", 9},
    {(const uint8_t *)"returns", 7},
};

typedef struct {
    rota_bytes fields[FIELDS];
} letter;

typedef struct {
    uint32_t count;
    letter *letters;
} mail;

static mail recall(rota_bytes state) {
    rota_reader reader = rota_read(state);
    mail all = {rota_read_array(&reader), NULL};
    all.letters = rota_new(all.count * sizeof(letter));
    for (uint32_t i = 0; i < all.count; i++) {
        rota_read_array(&reader);
        for (uint32_t f = 0; f < FIELDS; f++) all.letters[i].fields[f] = rota_read_bytes(&reader);
    }
    return all;
}

static void keep(rota_context *ctx, const mail *all) {
    rota_writer state = {0};
    rota_write_array(&state, all->count);
    for (uint32_t i = 0; i < all->count; i++) {
        rota_write_array(&state, FIELDS);
        for (uint32_t f = 0; f < FIELDS; f++) {
            if (all->letters[i].fields[f].data) rota_write_str(&state, all->letters[i].fields[f]);
            else rota_write_nil(&state);
        }
    }
    ctx->state = rota_packed(&state);
}

static void tell_department(rota_bytes name, rota_bytes what, uint64_t number, rota_bytes text) {
    rota_writer work = {0};
    rota_write_array(&work, 3);
    rota_write_str(&work, what);
    rota_write_uint(&work, number);
    rota_write_str(&work, text);
    rota_emit(ROTA_JOIN(ROTA_TEXT("department/"), name), rota_written(&work));
}

static void take_mail(rota_context *ctx, rota_reader *reader, uint32_t count) {
    mail all = {count, rota_new(count * sizeof(letter))};
    bool good = count > 0;
    rota_writer news = {0};
    rota_write_array(&news, 1);
    rota_write_uint(&news, count);
    rota_emit(ROTA_TEXT("critic/main"), rota_written(&news));
    for (uint32_t i = 0; i < count; i++) {
        all.letters[i] = (letter){{rota_read_bytes(reader)}};
        good = good && all.letters[i].fields[0].data;
        for (uint32_t d = 0; d < sizeof NAMES / sizeof *NAMES; d++)
            tell_department(NAMES[d], ROTA_TEXT("bid"), i, all.letters[i].fields[0]);
    }
    if (good && !reader->bad) keep(ctx, &all);
    else rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [text, ...]"));
}

static void take_news(rota_context *ctx, mail *all, rota_bytes what, rota_reader *reader) {
    uint64_t number = rota_read_uint(reader);
    rota_bytes first = rota_read_bytes(reader);
    bool is_decision = rota_equal(what, ROTA_TEXT("decision"));
    rota_bytes loudest = is_decision ? rota_read_bytes(reader) : ROTA_NIL;
    if (reader->bad || number >= all->count || (!is_decision && !rota_equal(what, ROTA_TEXT("title")))) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send what the head of desk.c says"));
        return;
    }
    letter *one = &all->letters[number];
    one->fields[is_decision ? WINNER : TITLE] = first;
    if (is_decision) {
        one->fields[LOUDEST] = loudest;
        tell_department(first, ROTA_TEXT("title"), number, one->fields[0]);
    }
    keep(ctx, all);
}

static void agent(rota_context *ctx) {
    rota_reader reader = rota_read(ctx->message.payload);
    uint32_t count = rota_read_array(&reader);
    if (reader.bad) rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send what the head of desk.c says"));
    else if (!ctx->state.packed.data) take_mail(ctx, &reader, count);
    else if (count == 0) rota_reply(ROTA_JOIN(ctx->state.packed));
    else {
        mail all = recall(ctx->state.packed);
        rota_bytes what = rota_read_bytes(&reader);
        take_news(ctx, &all, what, &reader);
    }
}
