/* The agent NAME: counts its messages, and replies how many there were. */
#include "rota.h"

static void agent(rota_context *ctx) {
    int64_t count = rota_int_or(ctx->state, 0) + 1;
    ctx->state = rota_int(count);
    rota_log(ROTA_JOIN("message ", rota_decimal(count)));
    rota_reply(ROTA_JOIN(ctx->message.payload, ": ", rota_decimal(count)));
}
