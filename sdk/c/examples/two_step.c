/* two_step: asks one agent, asks another with its answer, and keeps both and answers with them. */
#include "rota.h"

static void agent(rota_context *ctx) {
    const rota_message *message = &ctx->message;
    int64_t step = rota_int_or(rota_get(ctx->state, "step"), 0);
    uint64_t turn = (uint64_t)rota_int_or(rota_get(ctx->state, "turn"), 0);
    if (message->kind == ROTA_FAILURE) {
        rota_bytes text = ROTA_JOIN(rota_at(message->value, 0), ": ", rota_at(message->value, 1));
        rota_settle_failure(turn, ROTA_JOIN("step_", rota_decimal(step)), text);
    } else if (message->kind != ROTA_REPLY) {
        ctx->state = ROTA_MAP("step", 1, "turn", rota_postpone());
        rota_ask("echo/two_step", message->payload);
    } else if (step == 1) {
        ctx->state = ROTA_MAP("step", 2, "turn", turn, "first", rota_text(message->payload));
        rota_ask("counter/two_step", message->payload);
    } else {
        rota_value first = rota_get(ctx->state, "first");
        ctx->state = ROTA_MAP("step", 3, "first", first, "second", rota_text(message->payload));
        rota_settle(turn, ctx->state);
    }
}
