/* clerk: answers in the way that its entropy says: at once, by a question to another clerk, by another clerk, or later.
 * For tests that kill processes. It must be deployed as `clerk`.
 *
 *     "DEPTH"   above zero, it may ask another clerk one depth less, or hand the task on to one
 *     "wait"    answered when somebody sends "go"
 *     "go"      answers all that wait, with results, failures and hand-ons in turn
 *     "pass"    hands the task on to model:nobody, with a deadline of a millisecond
 *
 * The state is a hash over turn and payload of each message in order, and the turns that it still has to settle.
 */
#include "rota.h"

enum { KEPT_MAX = 16, KEYS = 7, AN_HOUR_MS = 3600000 };

typedef struct {
    uint32_t count;
    uint64_t turns[KEPT_MAX];
} kept;

typedef struct {
    uint64_t hash;
    kept soon, gate;
} clerk;

static uint64_t fnv1a(uint64_t hash, const void *data, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static rota_bytes answer_of(const clerk *self) { return rota_decimal((int64_t)(self->hash >> 8)); }

static rota_bytes another(const rota_context *ctx, uint64_t salt) {
    return ROTA_JOIN("clerk/", rota_decimal((int64_t)((ctx->message.entropy.data[1] + salt) % KEYS)));
}

static bool keep(kept *where) {
    if (where->count == KEPT_MAX) return false;
    where->turns[where->count++] = rota_postpone();
    return true;
}

/* As rota_hand_on, but with a deadline, which the emit may have. */
static void hand_on(rota_bytes target, const char *payload, uint64_t turn, uint64_t deadline_ms) {
    rota_emit_with(ROTA_ASK, target, rota_string(payload), (rota_emit_place){deadline_ms, turn}, (rota_options){0});
}

static void settle(const rota_context *ctx, const clerk *self, uint64_t turn, uint32_t way) {
    if (way % 4 == 0) rota_settle_failure(turn, "closed", "the desk is closed");
    else if (way % 4 == 1) hand_on(another(ctx, way), "0", turn, AN_HOUR_MS);
    else rota_settle(turn, answer_of(self));
}

static void settle_oldest(const rota_context *ctx, clerk *self) {
    settle(ctx, self, self->soon.turns[0], ctx->message.entropy.data[2]);
    for (uint32_t i = 1; i < self->soon.count; i++) self->soon.turns[i - 1] = self->soon.turns[i];
    self->soon.count--;
}

static void settle_gate(const rota_context *ctx, clerk *self) {
    for (uint32_t i = 0; i < self->gate.count; i++) settle(ctx, self, self->gate.turns[i], i);
    rota_reply(rota_decimal(self->gate.count));
    self->gate.count = 0;
}

static void take_work(const rota_context *ctx, clerk *self, uint64_t depth) {
    uint8_t way = ctx->message.entropy.data[0];
    if (way % 16 == 15) rota_fail("busy", "ask another one");
    if (depth > 0 && way % 4 == 0) {
        rota_ask(another(ctx, 0), rota_decimal((int64_t)depth - 1), .deadline_ms = AN_HOUR_MS);
        rota_postpone();
    } else if (depth > 0 && way % 4 == 1) {
        rota_hand_on(another(ctx, 0), rota_decimal((int64_t)depth - 1));
    } else if (way % 4 == 2 && keep(&self->soon)) {
        rota_emit(ctx->message.address, "close", .priority = -1);
    } else {
        rota_reply(answer_of(self));
    }
}

static void agent(rota_context *ctx) {
    rota_message *message = &ctx->message;
    rota_bytes text = message->payload;
    uint64_t depth;
    clerk self = {.hash = 0xcbf29ce484222325u};
    if (!rota_is_none(ctx->state)) rota_copy((uint8_t *)&self, rota_as_bytes(ctx->state));
    self.hash = fnv1a(self.hash, &message->turn, sizeof message->turn);
    self.hash = fnv1a(self.hash, text.data, text.size);

    if (message->kind == ROTA_REPLY) rota_settle(message->asked_in, answer_of(&self));
    else if (message->kind == ROTA_FAILURE) rota_settle_failure(message->asked_in, "passed_on", "nobody knows");
    else if (rota_equal(text, rota_string("wait"))) {
        if (!keep(&self.gate)) rota_reply("full");
    } else if (rota_equal(text, rota_string("go"))) settle_gate(ctx, &self);
    else if (rota_equal(text, rota_string("close"))) settle_oldest(ctx, &self);
    else if (rota_equal(text, rota_string("pass"))) hand_on(rota_string("model:nobody"), "", rota_postpone(), 1);
    else if (rota_take_number(&text, &depth)) take_work(ctx, &self, depth);
    else rota_fail("bad_payload", "send what the head of clerk.c says");
    ctx->state = rota_bin((rota_bytes){(const uint8_t *)&self, sizeof self});
}
