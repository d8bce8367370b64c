/* counter: counts its messages. */
#include "rota.h"

static void agent(rota_context *ctx) {
    int64_t count = rota_int_or(ctx->state, 0) + 1;
    ctx->state = rota_int(count);
    rota_reply(rota_decimal(count));
}
