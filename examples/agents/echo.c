/* echo: the smallest agent. The result is the payload; it keeps no state, so it may be deployed with `reuse`. */
#include "rota.h"

static void agent(rota_context *ctx) { rota_reply(ctx->message.payload); }
