"""Every bound of the system, with its unit in its name and its reason beside it. PURE.

A bound that a user meets is named in docs/PROTOCOL.md or docs/AGENTS.md; change both. What can be set per lane or per
deploy has its default here and its place in `Limits` (work.py) or `LaneSettings` (messages.py).
"""

from __future__ import annotations

from typing import Final

# --- the wire -------------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 2
MESSAGE_BYTES_MAX: Final = 64 << 20  # one frame; a module is the largest thing that travels inline
PAYLOAD_BYTES_MAX: Final = 1 << 20  # one task's payload; larger data goes by tensor reference
INLINE_BYTES_MAX: Final = 64 << 10  # tensors up to this travel inline; about where a file costs less than the copies
INLINE_TOTAL_BYTES_MAX: Final = 512 << 10  # of one payload's inline tensors together; half of it is left for the rest
# What one task may return (the agent's whole answer, a model's result), and about what the outcomes of one fold may
# take: three times this, tensors' names and log lines included, fit into one message.
OUTPUT_BYTES_MAX: Final = 16 << 20
RUN_TASKS_MAX: Final = 65_536  # tasks of one submit: bounds the work of one loop turn of the broker
MESSAGE_ITEMS_MAX: Final = 1 << 20  # elements of one MessagePack array or map
TENSORS_PER_TASK_MAX: Final = 256  # language models pass two for each of their layers
VALUE_DEPTH_MAX: Final = 64  # lists and maps inside each other in a packed value
LOG_LINES_MAX: Final = 256

# --- names ----------------------------------------------------------------------------------------
NAME_CHARS_MAX: Final = 64  # lane, agent and model names
KEY_CHARS_MAX: Final = 200  # the key of an agent address
MESSAGE_CHARS_MAX: Final = 2_000  # the text of a failure

# --- tasks ----------------------------------------------------------------------------------------
PRIORITY_MIN: Final = -8
PRIORITY_MAX: Final = 7  # sixteen levels; RabbitMQ 4.3 has 32, Kafka and River 4 or none
DELAY_MS_MAX: Final = 10 * 366 * 24 * 3600 * 1000  # ten years
NOW_MS_MAX: Final = (1 << 53) - 1  # fits a double, so every language can hold it
FUEL_MAX: Final = (1 << 62) - 1
MEMORY_BYTES_MAX: Final = 4 << 30  # 32-bit memories end there
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
EMITS_MAX: Final = 4_096  # per task, whatever a deploy says
GROWTH_BYTES_DEFAULT: Final = 128 << 10  # a full window of them is half of a lane's budget
GROWTH_BYTES_MAX: Final = MESSAGE_BYTES_MAX

# --- lanes ----------------------------------------------------------------------------------------
WINDOW_TASKS_DEFAULT: Final = 1_024
WINDOW_TASKS_MAX: Final = 65_536
LANE_TASKS_DEFAULT: Final = 1_000_000  # stamped and unretired tasks: the bound behind Busy and `overflow`
LANE_BYTES_DEFAULT: Final = 256 << 20  # of tasks, timers and states; what a full window may grow is half of it
LANE_BYTES_MAX: Final = 1 << 40
LANES_BYTES_DEFAULT: Final = 16 << 30  # what the budgets of all lanes of a broker may come to
LANE_AGENTS_DEFAULT: Final = 100_000  # an agent is never forgotten
LANE_AGENTS_MAX: Final = 1 << 32
STARVATION_PASSES_DEFAULT: Final = 64  # a waiting priority level is served after so many issues from higher levels
LANES_MAX: Final = 1_024
PENDING_DEPLOYS_MAX: Final = 64  # deploys that wait for a worker to look at them; the oldest is refused first
DEPLOYS_MAX: Final = 4_096  # names per lane
DEAD_TASKS_MAX: Final = 10_000  # dead letters kept per lane; the oldest is dropped first
DEAD_SHARE: Final = 8  # and beside the budget of their lane this part of it, in bytes

# --- results and producers ------------------------------------------------------------------------
RESULTS_KEPT_MAX: Final = 200_000  # results kept for a later ask, per broker
RESULTS_KEPT_BYTES: Final = 256 << 20
PRODUCERS_MAX: Final = 10_000  # producers whose submit numbers are remembered; the longest silent one is dropped first
CONNECTIONS_MAX: Final = 16_384  # producers' connections that are remembered; a ROUTER does not tell when one closes
NUMBERS_KEPT_MAX: Final = 4_096  # answers kept per producer
CLIENT_UNSENT_BYTES: Final = 64 << 20  # messages that wait for one slow peer before it is given up
UNSENT_BYTES_MAX: Final = 256 << 20  # and for all of them before the worst is given up

# --- snapshots ------------------------------------------------------------------------------------
SNAPSHOT_RECORDS: Final = 50_000  # between two: a start reads about that much in a second or two
SNAPSHOT_BYTES: Final = 32 << 20

# --- workers --------------------------------------------------------------------------------------
HEARTBEAT_MS: Final = 1_000
PID_MAX: Final = (1 << 31) - 1  # what the calls that look for a process take
HEARTBEATS_MISSED_MAX: Final = 3  # zguide chapter 4: liveness 3 to 5 at 1 s
POISON_DEATHS_MAX: Final = 3  # workers a task may take with it when it runs alone; Dask has 3, RabbitMQ 20
FOLD_TASKS_MAX: Final = 256  # tasks of one assignment
ASSIGNMENTS_PER_WORKER: Final = 2  # one runs, one waits: hides the round trip
ASSIGNMENT_TARGET_MS: Final = 10  # work in one assignment, by the measured time of earlier ones
ASSIGNMENT_BYTES_MAX: Final = 8 << 20
UNRETIRED_BYTES_MAX: Final = 64 << 20  # outcomes of a lane behind a slow head, before only the head is handed out
TIMEOUT_GRACE_MS: Final = 5_000  # past an assignment's own limits, before its worker is sent away
TRIES_MAX: Final = 3  # of a task that no worker can do, or that its workers do not come back from
STUCK_MS: Final = 500  # from telling an executor to stop until it counts as stuck
STUCK_MS_MAX: Final = 60_000  # a worker that is stuck for so long ends its process
ASSIGNMENTS_HELD_MAX: Final = 1_024  # that one worker has not come out of
PREPARATIONS_MAX: Final = 1_024  # that one worker has under way
PREPARE_MS_MAX: Final = 900_000  # of one assignment: the largest model from a slow disk takes minutes

# --- code -----------------------------------------------------------------------------------------
MODULE_BYTES_MAX: Final = 48 << 20
WASM_ITEMS_MAX: Final = 100_000  # entries of one section: with the next, the broker reads any module in about a second
WASM_SECTION_BYTES_MAX: Final = 1 << 20  # of a section that the broker reads; code and data are not read
WASM_TABLES_MAX: Final = 4  # per module
WASM_TABLE_ELEMENTS_MAX: Final = 1 << 20  # 8 bytes each on the host; `table.grow` past it returns -1
COMPILE_MS_MAX: Final = 60_000
COMPILE_MEMORY_BYTES_MAX: Final = 4 << 30

# --- tensor store ---------------------------------------------------------------------------------
TENSOR_BYTES_MAX: Final = 64 << 30
TENSOR_STORE_BYTES_MAX: Final = 1 << 40
TENSOR_RANK_MAX: Final = 32  # axes; numpy stops at 64, no model that we know passes 8
TENSOR_LEASE_MS: Final = 600_000  # an unreferenced tensor lives so long after it was last touched
