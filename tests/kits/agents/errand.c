/* errand: a flow that asks clerks and other errands at once, then one more clerk, and answers with what it heard.
 * For tests that kill processes. It must be deployed as `errand`.
 *
 *     "DEPTH"         above zero, it calls errands one depth less
 *     "DEPTH wait"    besides, it asks the clerk `gate/...` to wait, and so may the errands that it calls
 *     "COUNT clock"   so often one after another: sleeps a millisecond, asks model:nobody for as long, asks a clerk who
 *                     passes that on to it, and calls an errand
 *
 * The answer is a hash over all of its messages in order, so it shows a message that came twice, never, or elsewhere.
 */
#define ROTA_FLOW
#include "rota.h"

enum { KEYS = 7, GATES = 3, AN_HOUR_MS = 3600000, ROUND = 4 };

static void (*next)(rota_context *ctx);
static uint64_t hash = 0xcbf29ce484222325u, left, steps;

static void hear(const void *data, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
}

static rota_bytes key(const char *name, uint8_t chance, uint8_t keys) {
    return ROTA_JOIN(name, rota_decimal(chance % keys));
}

static void finish(void) {
    if (hash % 8 == 0) rota_fail("no_luck", "it rained");
    rota_reply(rota_decimal((int64_t)(hash >> 8)));
}

static void finish_with_last(rota_context *ctx) {
    (void)ctx;
    finish();
}

static void gather(rota_context *ctx) {
    if (--left == 0) {
        rota_ask(key("clerk/", ctx->message.entropy.data[3], KEYS), "1", .priority = 2);
        next = finish_with_last;
    }
    rota_wait();
}

static void scatter(const rota_message *message, uint64_t depth, bool waits) {
    const uint8_t *chance = message->entropy.data;
    uint32_t clerks = 1 + chance[0] % 3, errands = depth ? 1 + chance[1] % 2 : 0;
    for (uint32_t i = 0; i < clerks; i++)
        rota_ask(key("clerk/", chance[4 + i], KEYS), "2", .priority = chance[8 + i] % 3 - 1, .deadline_ms = AN_HOUR_MS);
    for (uint32_t i = 0; i < errands; i++)
        rota_ask("errand", ROTA_JOIN(rota_decimal((int64_t)depth - 1), waits && chance[12 + i] % 2 ? " wait" : ""));
    if (waits) rota_ask(key("clerk/gate", chance[16], GATES), "wait");
    if (chance[17] % 2) rota_timer(AN_HOUR_MS, "too late");
    left = clerks + errands + waits;
    next = gather;
    rota_wait();
}

static void tick(rota_context *ctx) {
    if (left == 0) {
        finish();
        return;
    }
    switch (steps++ % ROUND) {
    case 0: rota_timer(1, rota_decimal((int64_t)left)); break;
    case 1: rota_ask("model:nobody", "", .deadline_ms = 1); break;
    case 2: rota_ask("clerk/clock", "pass"); break;
    default:
        rota_ask("errand", "1", .priority = ctx->message.entropy.data[0] % 3);
        left--;
    }
    rota_wait();
}

static void flow(rota_context *ctx) {
    rota_message *message = &ctx->message;
    hear(&message->turn, sizeof message->turn);
    hear(&message->emit, sizeof message->emit);
    hear(message->payload.data, message->payload.size);
    if (next) {
        next(ctx);
        return;
    }
    rota_bytes text = message->payload;
    uint64_t number;
    if (!rota_take_number(&text, &number)) rota_fail("bad_payload", "send what the head of errand.c says");
    if (rota_equal(text, rota_string("clock"))) {
        left = number;
        next = tick;
        tick(ctx);
    } else {
        scatter(message, number, rota_equal(text, rota_string("wait")));
    }
}
