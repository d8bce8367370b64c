/* desk: answers later: asks another agent and settles, keeps a task for a later message, or hands it on. */
#include "rota.h"

static bool says(const rota_context *ctx, const char *word) {
    return rota_equal(ctx->message.payload, rota_string(word));
}

static void agent(rota_context *ctx) {
    rota_message *message = &ctx->message;
    uint64_t asked_in = message->asked_in, waiting = (uint64_t)rota_int_or(ctx->state, 0);
    uint32_t tensors[256];
    for (uint32_t i = 0; i < message->tensor_count; i++) tensors[i] = i;

    if (message->kind == ROTA_REPLY) { /* asked in the turn that was postponed */
        rota_settle(asked_in, message->payload, .tensors = tensors, .tensor_count = message->tensor_count);
    } else if (message->kind == ROTA_FAILURE) {
        rota_settle_failure(asked_in, rota_at(message->value, 0), rota_at(message->value, 1));
    } else if (says(ctx, "wait")) {
        ctx->state = rota_int((int64_t)rota_postpone());
    } else if (says(ctx, "answer")) {
        rota_settle(waiting, ROTA_MAP("waited", waiting));
        ctx->state = ROTA_NONE;
        rota_reply("answered");
    } else if (says(ctx, "refuse")) {
        rota_settle_failure(waiting, "refused", "the desk is closed");
        ctx->state = ROTA_NONE;
    } else if (says(ctx, "pass")) {
        rota_hand_on("echo/y", ROTA_LIST(waiting), .priority = 3, .deadline_ms = 60000, .turn = waiting);
        ctx->state = ROTA_NONE;
    } else if (says(ctx, "transfer")) {
        rota_hand_on("echo/x", message->payload, .tensors = tensors, .tensor_count = message->tensor_count);
    } else {
        uint32_t count = message->tensor_count;
        rota_ask("echo/x", message->payload, .tensors = tensors, .tensor_count = count, .deadline_ms = 30000);
        rota_postpone();
    }
}
