/* trip: a flow that asks two agents and a model at once, then two desks of which one has to answer. Each message is a
 * step; `next` is what the next step does.
 */
#define ROTA_FLOW
#include "rota.h"

enum { ALL_HAVE_ANSWERED = 7 }; /* a bit for each of the first three asks */

static void (*next)(rota_context *ctx);
static uint32_t answered, first[256], first_count, hotel_tensors[256], hotel_count;
static rota_bytes weather, hotel, plan;
static uint64_t asked_in;
static rota_value failure;

static void finish(rota_context *ctx) {
    if (ctx->message.kind == ROTA_FAILURE) rota_fail_as_asked(ctx);
    for (uint32_t i = 0; i < first_count; i++) first[i] = i;
    rota_value found = ROTA_MAP("weather", rota_text(weather), "plan", rota_text(plan), "booked", ctx->message.value);
    rota_reply(found, .tensors = first, .tensor_count = first_count);
}

static void book_again(rota_context *ctx) { /* the timer has fired; the other desk may still answer */
    if (ctx->message.kind == ROTA_TIMER) {
        asked_in = ctx->message.turn;
        rota_ask("booking/c", failure);
    } else if (ctx->message.asked_in == asked_in) {
        finish(ctx);
        return;
    }
    rota_wait();
}

static void take_first(rota_context *ctx) {
    if (ctx->message.kind == ROTA_REPLY) {
        finish(ctx);
        return;
    }
    failure = rota_keep(ctx->message.value);
    rota_timer(250, 0);
    next = book_again;
    rota_wait();
}

static void gather(rota_context *ctx) {
    rota_message *message = &ctx->message;
    if (message->kind == ROTA_FAILURE) rota_fail_as_asked(ctx);
    answered |= 1u << message->emit;
    if (message->emit == 0) weather = rota_keep(message->payload);
    if (message->emit == 1) {
        hotel = rota_keep(message->payload);
        for (; hotel_count < message->tensor_count; hotel_count++)
            hotel_tensors[hotel_count] = message->first_tensor + hotel_count;
    }
    if (message->emit == 2) plan = rota_keep(rota_as_bytes(rota_get(rota_get(message->value, "generate"), "text")));
    rota_wait();
    if (answered != ALL_HAVE_ANSWERED) return;

    rota_emit("log/main", ROTA_LIST("found", rota_text(hotel)));
    rota_ask("booking/a", hotel, .tensors = hotel_tensors, .tensor_count = hotel_count);
    rota_ask("booking/b", hotel, .tensors = hotel_tensors, .tensor_count = hotel_count);
    next = take_first;
}

static void begin(rota_context *ctx) {
    rota_bytes city = ctx->message.payload;
    first_count = ctx->message.tensor_count;
    rota_log(ROTA_JOIN("a trip to ", city));
    rota_value prompt = rota_text(ROTA_JOIN("A day in ", city, ":"));
    rota_ask("weather/today", city);
    rota_ask("hotel/best", ROTA_MAP("city", rota_text(city), "nights", 2), .priority = 2, .deadline_ms = 30000);
    rota_ask("model:smollm2", ROTA_MAP("generate", ROTA_MAP("max_tokens", 32, "prompt", prompt)));
    next = gather;
    rota_wait();
}

static void flow(rota_context *ctx) {
    if (next) next(ctx);
    else begin(ctx);
}
