/* ask_model: asks a language model, and answers whoever asked with the text that it gives.
 *
 *     TEXT     asks model:smollm2. The answer comes when the model has answered: its text, or its failure
 *
 * The task that asks is postponed, and the message with the model's answer settles it. `asked_in` of that message is the
 * turn that asked, which is the turn that was postponed; so nothing has to be kept, and many may ask at once.
 */
#include "rota.h"

static void ask(rota_bytes text) {
    rota_value messages = ROTA_LIST(ROTA_MAP("role", "user", "content", rota_text(text)));
    rota_ask("model:smollm2", ROTA_MAP("generate", ROTA_MAP("max_tokens", 64, "messages", messages)));
    rota_postpone();
}

static void take_answer(const rota_message *message) { /* {"generate": {"text": TEXT, ...}} */
    rota_value text = rota_get(rota_get(message->value, "generate"), "text");
    if (rota_is_none(text)) rota_settle_failure(message->asked_in, "bad_answer", "the answer of the model has no text");
    else rota_settle(message->asked_in, text);
}

static void take_failure(const rota_message *message) { /* [KIND, MESSAGE] */
    rota_settle_failure(message->asked_in, rota_at(message->value, 0), rota_at(message->value, 1));
}

static void agent(rota_context *ctx) {
    const rota_message *message = &ctx->message;
    if (message->kind == ROTA_REPLY) take_answer(message);
    else if (message->kind == ROTA_FAILURE) take_failure(message);
    else ask(message->payload);
}
