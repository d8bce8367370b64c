/* reminder: sends itself a timer and answers when it fires.
 *
 *     "DELAY_MS TEXT"   sets a timer
 *     "get"             result: the state, or "0 0 " before the first
 *
 * The state is text, "WAITING FIRED LAST": timers set and not fired, timers fired, and the text of the last that fired.
 * A timer fires as an input with a journaled position, so a replay fires it at the same place, without waiting.
 */
#include "rota.h"

static rota_bytes with_counts(uint64_t waiting, uint64_t fired, rota_bytes last) {
    return ROTA_JOIN(rota_decimal(waiting), ROTA_TEXT(" "), rota_decimal(fired), ROTA_TEXT(" "), last);
}

static void agent(const rota_input *input) {
    rota_bytes text = input->payload, last = input->state;
    uint64_t delay_ms, waiting = 0, fired = 0;
    rota_take_number(&last, &waiting);
    rota_take_number(&last, &fired);

    if (input->kind == ROTA_TIMER) {
        rota_state(with_counts(waiting - 1, fired + 1, text));
        rota_result(text);
    } else if (rota_equal(text, ROTA_TEXT("get"))) {
        rota_result(with_counts(waiting, fired, last));
    } else if (rota_take_number(&text, &delay_ms)) {
        rota_timer(input->address, text, delay_ms);
        rota_state(with_counts(waiting + 1, fired, last));
        rota_result(ROTA_JOIN(ROTA_TEXT("at "), rota_decimal(input->now_ms + delay_ms)));
    } else {
        rota_error(ROTA_TEXT("bad_payload"), ROTA_TEXT("send \"DELAY_MS TEXT\" or \"get\""));
    }
}
