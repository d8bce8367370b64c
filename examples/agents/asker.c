/* asker: asks another agent and keeps the answer. It does not wait: the answer is a later message.
 *
 *     "get"            result: the last answer, or "" before the first
 *     ""               asks counter/x
 *     "TARGET TEXT"    asks TARGET, with TEXT as payload, which may be empty
 *
 * The state is the last answer as text: "TURN: RESULT", or "TURN failed: KIND: MESSAGE", where TURN is the turn of
 * the task that was asked (`reply_to`), not the one that asked.
 */
#include "rota.h"

static void ask(rota_bytes text) {
    rota_bytes target = text.size > 0 ? rota_take_word(&text) : ROTA_TEXT("counter/x");
    rota_ask(target, text);
    rota_reply(ROTA_JOIN(ROTA_TEXT("asked "), target));
}

static rota_bytes failure_text(rota_bytes payload) {
    rota_reader reader = rota_read(payload);
    rota_read_array(&reader);
    rota_bytes kind = rota_read_bytes(&reader);
    rota_bytes message = rota_read_bytes(&reader);
    return ROTA_JOIN(ROTA_TEXT(" failed: "), kind, ROTA_TEXT(": "), message);
}

static void keep(rota_context *ctx, rota_bytes answer) {
    ctx->state = rota_text(answer);
    rota_reply(answer);
}

static void agent(rota_context *ctx) {
    rota_bytes turn = rota_decimal(ctx->message.reply_to);
    if (ctx->message.kind == ROTA_REPLY) keep(ctx, ROTA_JOIN(turn, ROTA_TEXT(": "), ctx->message.payload));
    else if (ctx->message.kind == ROTA_FAILURE) keep(ctx, ROTA_JOIN(turn, failure_text(ctx->message.payload)));
    else if (rota_equal(ctx->message.payload, ROTA_TEXT("get"))) rota_reply(rota_is_none(ctx->state) ? rota_text_of("") : ctx->state);
    else ask(ctx->message.payload);
}
