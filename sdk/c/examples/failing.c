/* failing: fails as its payload says, "fail", "crash", "deep" or "spin"; else it replies the payload. */
#include "rota.h"

/* Each call keeps a variable in memory, so the stack ends. */
static int deep(volatile int *above) {
    volatile int here = *above + 1;
    return here > 0 ? deep(&here) + here : 0;
}

static void agent(rota_context *ctx) {
    rota_bytes what = ctx->message.payload;
    volatile int start = 0;
    if (rota_equal(what, ROTA_TEXT("fail"))) {
        rota_log("before it");
        rota_fail("asked_to_fail", "the payload said so");
    } else if (rota_equal(what, ROTA_TEXT("crash"))) {
        rota_log("before it");
        __builtin_trap();
    } else if (rota_equal(what, ROTA_TEXT("deep"))) {
        rota_log("before it");
        rota_reply(deep(&start));
    } else if (rota_equal(what, ROTA_TEXT("spin"))) {
        rota_log("before it");
        while (true) start = start + 1;
    } else {
        rota_reply(what);
    }
}
