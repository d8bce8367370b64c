/* critic: decides which department gets which message, from their bids. Part of scripts/demo.py agents.
 *
 *     desk/main, department/<name> -> critic/main -> desk/main
 *
 * Two messages, MessagePack: [count], how many messages there are, first; then [number, name, bid] for each message and
 * each of the four departments, in any order. A model names some departments more readily than others, whatever the
 * message says. So the critic takes from each bid the average of that department's bids, and the highest of what is
 * left wins. When all bids are in, it tells the desk ["decision", number, winner, loudest] for each message; `loudest`
 * made the highest bid, so it would have won without a critic.
 *
 * The state is [count, bids], `bids` as they came.
 */
#include "rota.h"

enum { DEPARTMENTS = 4, COUNT_MAX = 1000 };

typedef struct {
    rota_bytes name;
    int64_t sum;
    int64_t *bids; /* by number */
} department;

static int64_t read_int(rota_reader *reader) {
    uint32_t tag = reader->at < reader->end ? *reader->at : 0;
    if (tag >= 0xe0) return reader->at++, (int64_t)tag - 0x100;
    if (tag < 0xd0 || tag > 0xd3) return (int64_t)rota_read_uint(reader);
    reader->at++;
    uint32_t size = 1u << (tag - 0xd0), unused = 64 - 8 * size;
    return (int64_t)(rota_read_big_endian(reader, size) << unused) >> unused;
}

/* Return the department of this name, a new one if it has not bid yet; NULL for one too many. */
static department *find(department *all, rota_bytes name, uint32_t count) {
    for (uint32_t i = 0; i < DEPARTMENTS; i++) {
        if (!all[i].name.data) {
            all[i] = (department){name, 0, rota_new(count * sizeof(int64_t))};
            __builtin_memset(all[i].bids, 0, count * sizeof(int64_t)); /* the memory may have been used before */
            return &all[i];
        }
        if (rota_equal(all[i].name, name)) return &all[i];
    }
    return NULL;
}

static void tell_decision(uint32_t number, const department *winner, const department *loudest) {
    rota_writer decision = {0};
    rota_write_array(&decision, 4);
    rota_write_str(&decision, ROTA_TEXT("decision"));
    rota_write_uint(&decision, number);
    rota_write_str(&decision, winner->name);
    rota_write_str(&decision, loudest->name);
    rota_emit(ROTA_TEXT("desk/main"), rota_written(&decision));
}

/* Averages are compared as sums over `count` bids, so nothing is rounded. */
static void decide(const department *all, uint32_t count) {
    for (uint32_t number = 0; number < count; number++) {
        const department *winner = all, *loudest = all;
        for (const department *one = all; one < all + DEPARTMENTS; one++) {
            int64_t fair = one->bids[number] * count - one->sum;
            if (fair > winner->bids[number] * count - winner->sum) winner = one;
            if (one->bids[number] > loudest->bids[number]) loudest = one;
        }
        tell_decision(number, winner, loudest);
    }
}

/* Return whether every bid was good. Departments are in the order of their first bid, which in a lane is always one. */
static bool add_up(rota_reader *bids, uint32_t bid_count, department *all, uint32_t count) {
    for (uint32_t i = 0; i < bid_count; i++) {
        bool good = rota_read_array(bids) == 3;
        uint64_t number = rota_read_uint(bids);
        department *one = find(all, rota_read_bytes(bids), count);
        int64_t bid = read_int(bids);
        if (!good || bids->bad || !one || number >= count) return false;
        one->bids[number] = bid;
        one->sum += bid;
    }
    return true;
}

static void keep(rota_context *ctx, uint32_t count, uint32_t bid_count, rota_bytes bids, rota_bytes more) {
    rota_writer state = {0};
    rota_write_array(&state, 2);
    rota_write_uint(&state, count);
    rota_write_array(&state, bid_count);
    rota_write_raw(&state, bids);
    rota_write_raw(&state, more);
    ctx->state = rota_packed(&state);
}

static void begin(rota_context *ctx) {
    rota_reader reader = rota_read(ctx->message.payload);
    rota_read_array(&reader);
    uint64_t count = rota_read_uint(&reader);
    if (reader.bad || count == 0 || count > COUNT_MAX)
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [count], 1 to 1000, first"));
    else keep(ctx, (uint32_t)count, 0, ROTA_NIL, ROTA_NIL);
}

static void agent(rota_context *ctx) {
    if (!ctx->state.packed.data) {
        begin(ctx);
        return;
    }
    rota_reader state = rota_read(ctx->state.packed);
    rota_read_array(&state);
    uint32_t count = (uint32_t)rota_read_uint(&state);
    uint32_t bid_count = rota_read_array(&state) + 1;
    rota_bytes before = {state.at, (uint32_t)(state.end - state.at)};
    rota_bytes bids = ROTA_JOIN(before, ctx->message.payload);
    rota_reader reader = rota_read(bids);
    department all[DEPARTMENTS] = {0};
    if (bid_count > DEPARTMENTS * count || !add_up(&reader, bid_count, all, count)) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [number, name, bid] of four departments"));
        return;
    }
    keep(ctx, count, bid_count, before, ctx->message.payload);
    if (bid_count == DEPARTMENTS * count) decide(all, count);
    rota_reply(rota_decimal(bid_count));
}
