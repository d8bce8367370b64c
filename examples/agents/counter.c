/* counter: counts its messages.
 *
 * The state is the count; the result is the new count as decimal text. The payload "get" reads the count without
 * changing it; any other payload adds one.
 */
#include "rota.h"

static void agent(rota_context *ctx) {
    int64_t count = rota_int_or(ctx->state, 0);
    if (!rota_equal(ctx->message.payload, ROTA_TEXT("get"))) ctx->state = rota_int(++count);
    rota_reply(rota_decimal(count));
}
