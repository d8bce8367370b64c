/* counter: counts its messages.
 *
 * The state is the count, 8 bytes little-endian; the result is the new count as decimal text. The payload "get" reads
 * the count without changing it; any other payload adds one.
 */
#include "rota.h"

static void agent(const rota_input *input) {
    uint64_t count = 0;
    if (input->state.data && input->state.size != sizeof count) {
        rota_error(ROTA_TEXT("bad_state"), ROTA_TEXT("the state is not the 8 bytes of a counter"));
        return;
    }
    rota_copy((uint8_t *)&count, input->state);
    if (!rota_equal(input->payload, ROTA_TEXT("get"))) {
        count++;
        rota_state(ROTA_JOIN({(const uint8_t *)&count, sizeof count}));
    }
    rota_result(rota_decimal(count));
}
