/* echo_function: the smallest module of kind `function`: plain bytes in, the same bytes out, no state, no emits.
 *
 *     rota deploy echo_function examples/agents/echo_function.wasm --kind function
 */
#define ROTA_FUNCTION
#include "rota.h"

static rota_bytes function(rota_bytes payload) { return payload; }
