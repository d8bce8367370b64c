/* tally: keeps the count of one file type. In the demo (scripts/demo.py): features -> tally/<label> -> reporter/main.
 *
 * Payload, MessagePack: [label, path, size, score]. The state is [files, bytes] in MessagePack. Each message adds one
 * file and tells reporter/main the new totals, [label, files, bytes]. The result is the number of files as decimal
 * text.
 */
#include "rota.h"

static void agent(rota_context *ctx) {
    rota_reader payload = rota_read(ctx->message.payload);
    bool good = rota_read_array(&payload) == 4;
    rota_bytes label = rota_read_bytes(&payload);
    rota_bytes path = rota_read_bytes(&payload);
    uint64_t size = rota_read_uint(&payload);
    if (!good || payload.bad || !label.data || !path.data) {
        rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [label, path, size, score]"));
        return;
    }
    uint64_t files = 0, bytes = 0;
    if (ctx->state.packed.data) {
        rota_reader state = rota_read(ctx->state.packed);
        rota_read_array(&state);
        files = rota_read_uint(&state);
        bytes = rota_read_uint(&state);
    }
    rota_writer state = {0}, news = {0};
    rota_write_array(&state, 2);
    rota_write_uint(&state, files + 1);
    rota_write_uint(&state, bytes + size);
    ctx->state = rota_packed(&state);

    rota_write_array(&news, 3);
    rota_write_str(&news, label);
    rota_write_uint(&news, files + 1);
    rota_write_uint(&news, bytes + size);
    rota_emit(ROTA_TEXT("reporter/main"), rota_written(&news));
    rota_reply(rota_decimal(files + 1));
}
