/* ask_model: asks a language model and keeps its answer.
 *
 *     "get"    result: the last answer, or "" before the first
 *     TEXT     asks model:smollm2; result: "asked"
 *
 * The answer comes as a later message; its text is the result of that message and the new state. If the model's task
 * failed, "KIND: MESSAGE" takes the place of the text.
 */
#include "rota.h"

/* {"generate": {"max_tokens": 64, "messages": [{"role": "user", "content": TEXT}]}} */
static void ask(rota_bytes text) {
    rota_writer call = {0};
    rota_write_map(&call, 1);
    rota_write_str(&call, ROTA_TEXT("generate"));
    rota_write_map(&call, 2);
    rota_write_str(&call, ROTA_TEXT("max_tokens"));
    rota_write_uint(&call, 64);
    rota_write_str(&call, ROTA_TEXT("messages"));
    rota_write_array(&call, 1);
    rota_write_map(&call, 2);
    rota_write_str(&call, ROTA_TEXT("role"));
    rota_write_str(&call, ROTA_TEXT("user"));
    rota_write_str(&call, ROTA_TEXT("content"));
    rota_write_str(&call, text);
    rota_ask(ROTA_TEXT("model:smollm2"), rota_written(&call));
    rota_result(ROTA_TEXT("asked"));
}

static void keep(rota_bytes text) {
    rota_state(text);
    rota_result(text);
}

static void take_answer(rota_bytes payload) { /* {"generate": {"text": TEXT, ...}} */
    rota_reader answer = rota_read(payload);
    rota_read_key(&answer, ROTA_TEXT("generate"));
    rota_read_key(&answer, ROTA_TEXT("text"));
    rota_bytes text = rota_read_bytes(&answer);
    if (answer.bad) rota_error(ROTA_TEXT("bad_answer"), ROTA_TEXT("the answer of the model has no text"));
    else keep(text);
}

static void take_failure(rota_bytes payload) { /* [KIND, MESSAGE] */
    rota_reader failure = rota_read(payload);
    rota_read_array(&failure);
    rota_bytes kind = rota_read_bytes(&failure);
    keep(ROTA_JOIN(kind, ROTA_TEXT(": "), rota_read_bytes(&failure)));
}

static void agent(const rota_input *input) {
    if (input->kind == ROTA_REPLY) take_answer(input->payload);
    else if (input->kind == ROTA_FAILURE) take_failure(input->payload);
    else if (rota_equal(input->payload, ROTA_TEXT("get"))) rota_result(ROTA_JOIN(input->state));
    else ask(input->payload);
}
