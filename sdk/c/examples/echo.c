/* echo: the smallest agent. It replies the payload and the tensors as they came. */
#include "rota.h"

static void agent(rota_context *ctx) {
    uint32_t *all = (uint32_t *)rota_new(ctx->message.tensor_count * sizeof(uint32_t));
    for (uint32_t i = 0; i < ctx->message.tensor_count; i++) all[i] = i;
    rota_reply(ctx->message.payload, .tensors = all, .tensor_count = ctx->message.tensor_count);
}
