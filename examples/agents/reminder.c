/* reminder: sends itself a timer and answers when it fires.
 *
 *     "DELAY_MS TEXT"   sets a timer
 *     "get"             result: the state, or "0 0 " before the first
 *
 * The state is text, "WAITING FIRED LAST": timers set and not fired, timers fired, and the text of the last that fired.
 * A timer fires as an input with a journaled position, so a replay fires it at the same place, without waiting.
 */
#include "rota.h"

static rota_bytes with_counts(uint64_t waiting, uint64_t fired, rota_bytes last) {
    return ROTA_JOIN(rota_decimal(waiting), ROTA_TEXT(" "), rota_decimal(fired), ROTA_TEXT(" "), last);
}

static void agent(rota_context *ctx) {
    rota_bytes text = ctx->message.payload, last = rota_is_none(ctx->state) ? ROTA_NIL : rota_as_bytes(ctx->state);
    uint64_t delay_ms, waiting = 0, fired = 0;
    rota_take_number(&last, &waiting);
    rota_take_number(&last, &fired);

    if (ctx->message.kind == ROTA_TIMER) {
        ctx->state = rota_text(with_counts(waiting - 1, fired + 1, text));
        rota_reply(text);
    } else if (rota_equal(text, ROTA_TEXT("get"))) {
        rota_reply(with_counts(waiting, fired, last));
    } else if (rota_take_number(&text, &delay_ms)) {
        rota_timer(delay_ms, text);
        ctx->state = rota_text(with_counts(waiting + 1, fired, last));
        rota_reply(ROTA_JOIN(ROTA_TEXT("at "), rota_decimal(ctx->message.now_ms + delay_ms)));
    } else {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send \"DELAY_MS TEXT\" or \"get\""));
    }
}
