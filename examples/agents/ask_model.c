/* ask_model: asks a language model and keeps its answer.
 *
 *     "get"    result: the last answer, or "" before the first
 *     TEXT     asks model:smollm2; result: "asked"
 *
 * The answer comes as a later message; its text is the result of that message and the new state. If the model's task
 * failed, "KIND: MESSAGE" takes the place of the text.
 */
#include "rota.h"

static void ask(rota_bytes text) {
    rota_value messages = ROTA_LIST(ROTA_MAP("role", "user", "content", rota_text(text)));
    rota_ask("model:smollm2", ROTA_MAP("generate", ROTA_MAP("max_tokens", 64, "messages", messages)));
    rota_reply("asked");
}

static void take_answer(rota_context *ctx) { /* {"generate": {"text": TEXT, ...}} */
    ctx->state = rota_get(rota_get(ctx->message.value, "generate"), "text");
    if (rota_is_none(ctx->state)) rota_fail("bad_answer", "the answer of the model has no text");
    rota_reply(ctx->state);
}

static void take_failure(rota_context *ctx) { /* [KIND, MESSAGE] */
    rota_value kind = rota_at(ctx->message.value, 0), message = rota_at(ctx->message.value, 1);
    ctx->state = rota_text(ROTA_JOIN(kind, ": ", message));
    rota_reply(ctx->state);
}

static void agent(rota_context *ctx) {
    if (ctx->message.kind == ROTA_REPLY) take_answer(ctx);
    else if (ctx->message.kind == ROTA_FAILURE) take_failure(ctx);
    else if (!rota_equal(ctx->message.payload, ROTA_TEXT("get"))) ask(ctx->message.payload);
    else rota_reply(rota_is_none(ctx->state) ? rota_text_of("") : ctx->state);
}
