/* reporter: keeps the table of all tallies and returns it. The end of the demo's chain (scripts/demo.py).
 *
 * Payload, MessagePack: [label, files, bytes], the newest totals of one label, replaces that label's row. The state
 * is a MessagePack map, label -> [files, bytes], sorted by the bytes of the label; the result of the payload "report"
 * is this map. Submit that when the lane is idle: a report sees only what was tallied before it.
 */
#include "rota.h"

static void write_row(rota_writer *rows, rota_bytes label, uint64_t files, uint64_t bytes) {
    rota_write_str(rows, label);
    rota_write_array(rows, 2);
    rota_write_uint(rows, files);
    rota_write_uint(rows, bytes);
}

/* Return the map with the row of `label` replaced, or put in where it belongs. */
static rota_bytes table_with(rota_bytes table, rota_bytes label, uint64_t files, uint64_t bytes) {
    rota_reader reader = rota_read(table);
    rota_writer rows = {0}, map = {0};
    uint32_t count = table.data ? rota_read_map(&reader) : 0, written = 0;
    bool placed = false;
    for (uint32_t i = 0; i < count; i++) {
        rota_bytes old_label = rota_read_bytes(&reader);
        rota_read_array(&reader);
        uint64_t old_files = rota_read_uint(&reader), old_bytes = rota_read_uint(&reader);
        int order = rota_compare(old_label, label);
        if (order >= 0 && !placed) {
            write_row(&rows, label, files, bytes);
            placed = true;
            written++;
        }
        if (order == 0) continue;
        write_row(&rows, old_label, old_files, old_bytes);
        written++;
    }
    if (!placed) write_row(&rows, label, files, bytes);
    rota_write_map(&map, placed ? written : written + 1);
    rota_write_raw(&map, rota_written(&rows));
    return rota_written(&map);
}

static void agent(rota_context *ctx) {
    if (rota_equal(ctx->message.payload, ROTA_TEXT("report"))) {
        rota_writer empty = {0};
        rota_write_map(&empty, 0);
        rota_reply(ctx->state.packed.data ? ctx->state.packed : rota_written(&empty));
        return;
    }
    rota_reader payload = rota_read(ctx->message.payload);
    bool good = rota_read_array(&payload) == 3;
    rota_bytes label = rota_read_bytes(&payload);
    uint64_t files = rota_read_uint(&payload), bytes = rota_read_uint(&payload);
    if (good && !payload.bad && label.data) ctx->state.packed = table_with(ctx->state.packed, label, files, bytes);
    else rota_fail(ROTA_TEXT("bad_payload"), ROTA_TEXT("send MessagePack [label, files, bytes] or \"report\""));
}
