/* relay: a tree of messages, for stress tests. Payload, as text: "DEPTH FANOUT [KEYS]", KEYS 16 unless given.
 *
 * With a depth above zero it sends FANOUT children `relay/<k>` one depth less; child i goes to k = (entropy[i mod 32]
 * + i) mod KEYS, so that a lane's seed decides which agents get messages. It must be deployed as `relay`.
 *
 * The state is 16 bytes, two 64-bit numbers, little-endian: the number of messages, and a hash over turn and payload of each in
 * order (FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/). Swapping two messages of one agent changes the hash, so
 * equal lane digests prove the order too. The result is the count as decimal text.
 */
#include "rota.h"

typedef struct {
    uint64_t count, hash;
} relay_state;

static uint64_t fnv1a(uint64_t hash, const void *data, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static void tell_children(rota_context *ctx, uint64_t depth, uint64_t fanout, uint64_t keys) {
    rota_bytes space = ROTA_TEXT(" ");
    rota_bytes payload = ROTA_JOIN(rota_decimal(depth - 1), space, rota_decimal(fanout), space, rota_decimal(keys));
    for (uint64_t i = 0; i < fanout; i++)
        rota_emit(ROTA_JOIN(ROTA_TEXT("relay/"), rota_decimal((ctx->message.entropy.data[i % 32] + i) % keys)), payload);
}

static void agent(rota_context *ctx) {
    rota_bytes text = ctx->message.payload;
    uint64_t depth, fanout, keys = 16;
    bool good = rota_take_number(&text, &depth) && rota_take_number(&text, &fanout);
    if (good && text.size > 0) good = rota_take_number(&text, &keys) && keys > 0;
    if (!good) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send \"DEPTH FANOUT\" or \"DEPTH FANOUT KEYS\", KEYS above 0"));
        return;
    }
    if (depth > 0) tell_children(ctx, depth, fanout, keys);

    relay_state state = {0, 0xcbf29ce484222325u};
    if (!rota_is_none(ctx->state)) rota_copy((uint8_t *)&state, rota_as_bytes(ctx->state));
    state.count++;
    state.hash = fnv1a(state.hash, &ctx->message.turn, sizeof ctx->message.turn);
    state.hash = fnv1a(state.hash, ctx->message.payload.data, ctx->message.payload.size);
    ctx->state = rota_bin((rota_bytes){(const uint8_t *)&state, sizeof state});
    rota_reply(rota_decimal(state.count));
}
