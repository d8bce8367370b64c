/* ask_model: asks a language model, and answers with its text when that comes. */
#include "rota.h"

static void agent(rota_context *ctx) {
    const rota_message *message = &ctx->message;
    if (message->kind == ROTA_REPLY) {
        rota_settle(message->asked_in, rota_get(rota_get(message->value, "generate"), "text"));
    } else if (message->kind == ROTA_FAILURE) {
        rota_settle_failure(message->asked_in, rota_at(message->value, 0), rota_at(message->value, 1));
    } else {
        rota_value messages = ROTA_LIST(ROTA_MAP("role", "user", "content", rota_text(message->payload)));
        rota_ask("model:smollm2", ROTA_MAP("generate", ROTA_MAP("max_tokens", 64, "messages", messages)));
        rota_postpone();
    }
}
