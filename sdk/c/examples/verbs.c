/* verbs: what the other examples leave out: priority, timer, log, tensors, any value as state. */
#include "rota.h"

static void agent(rota_context *ctx) {
    const rota_message *message = &ctx->message;
    rota_bytes sender = message->sender.data ? message->sender : ROTA_TEXT("outside");
    rota_log(ROTA_JOIN(rota_kind_names[message->kind], " from ", sender));
    if (message->kind != ROTA_TELL && message->kind != ROTA_ASK) {
        rota_reply(message->payload);
        return;
    }
    rota_value before = ctx->state;
    ctx->state = message->value;
    uint32_t *all = (uint32_t *)rota_new(message->tensor_count * sizeof(uint32_t));
    for (uint32_t i = 0; i < message->tensor_count; i++) all[i] = i;
    rota_emit("log/main", message->value, .priority = -3, .tensors = all, .tensor_count = message->tensor_count);
    rota_value about = ROTA_LIST(message->turn, message->now_ms, rota_text(message->address));
    uint32_t asked = rota_ask("echo/x", about, .priority = 7);
    rota_timer(250, "again");
    rota_reply(ROTA_MAP("asked", asked, "entropy", message->entropy, "state", before));
}
