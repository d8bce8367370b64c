/* The flow NAME: counts the bytes of a text. It asks a call of its own for each word, all at once.
 *
 * `flow` is called with what the call was asked, then with each answer. Static variables last until the call ends.
 */
#define ROTA_FLOW
#include "rota.h"

enum { WORDS_MAX = 50 };

static uint32_t asked, answered;
static rota_bytes answers[2 * WORDS_MAX]; /* each with what stands behind it */

static void begin(rota_context *ctx) {
    rota_bytes left = ctx->message.payload, word = rota_take_word(&left);
    if (left.size == 0) {
        rota_reply(ROTA_JOIN(word, ": ", rota_decimal(word.size)));
        return;
    }
    for (; word.size > 0 && asked < WORDS_MAX; word = rota_take_word(&left)) {
        rota_ask("NAME", word);
        asked++;
    }
    rota_log(ROTA_JOIN(rota_decimal(asked), " words"));
    rota_wait(); /* may be days: the call waits in the lane, and no worker holds it meanwhile */
}

static void take_answer(rota_context *ctx) {
    uint64_t place = ctx->message.emit; /* what rota_ask returned */
    answers[2 * place] = rota_keep(ctx->message.payload);
    answers[2 * place + 1] = ROTA_TEXT(", ");
    if (++answered < asked) rota_wait();
    else rota_reply(rota_join(answers, 2 * asked - 1));
}

static void flow(rota_context *ctx) {
    if (ctx->message.kind == ROTA_FAILURE) rota_fail_as_asked(ctx);
    if (ctx->message.kind == ROTA_REPLY) take_answer(ctx);
    else begin(ctx);
}
