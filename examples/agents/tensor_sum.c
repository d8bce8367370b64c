/* tensor_sum: adds up the bytes of the first tensor, reading it in slices, and returns the tensor with its result.
 *
 * The result is the sum of all data bytes as decimal text, plus a reference to the same tensor; only the slices are
 * copied. It keeps no state, so it may be deployed with `reuse`.
 */
#include "rota.h"

enum { SLICE_BYTES = 64 << 10 };

static void agent(rota_context *ctx) {
    if (ctx->message.tensor_count == 0) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send a tensor along"));
        return;
    }
    uint8_t *slice = rota_new(SLICE_BYTES);
    uint64_t offset = 0, sum = 0;
    int32_t count;
    while ((count = rota_tensor_read(0, offset, slice, SLICE_BYTES)) > 0) {
        for (int32_t i = 0; i < count; i++) sum += slice[i];
        offset += (uint64_t)count;
    }
    if (count < 0) {
        rota_fail(ROTA_TEXT("unreadable"), ROTA_TEXT("the tensor could not be read"));
        return;
    }
    rota_reply(rota_decimal((int64_t)sum), .tensors = (uint32_t[]){0}, .tensor_count = 1);
}
