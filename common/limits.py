"""Every bound of the system, with its unit in its name and its reason beside it. PURE.

A bound that users see is named in docs/PROTOCOL.md or docs/AGENTS.md; change both. What can be set per lane or per
deploy has its default here and a field in `Limits` (work.py) or `LaneSettings` (messages.py).
"""

from __future__ import annotations

from typing import Final

# --- the wire -------------------------------------------------------------------------------------
PROTOCOL_VERSION: Final = 5
MESSAGE_BYTES_MAX: Final = 64 << 20  # one frame; a module is the largest thing sent inline
PAYLOAD_BYTES_MAX: Final = 1 << 20  # one task's payload; larger data is sent by tensor reference
INLINE_BYTES_MAX: Final = 64 << 10  # tensors up to this are inline; above it, a file costs less than the copies
INLINE_TOTAL_BYTES_MAX: Final = 512 << 10  # of one payload's inline tensors together; the other half is for the rest
# Of what one task may return (the agent's whole answer, a model's result), and about that of the outcomes of one fold:
# three times this, with tensors' names and log lines, fits into one message.
OUTPUT_BYTES_MAX: Final = 16 << 20
RUN_TASKS_MAX: Final = 65_536  # tasks of one submit: bounds the work of one loop turn of the broker
MESSAGE_ITEMS_MAX: Final = 1 << 20  # elements of one MessagePack array or map
TENSORS_PER_TASK_MAX: Final = 256  # language models have two for each of their layers
VALUE_DEPTH_MAX: Final = 64  # levels of nested lists and maps in a packed value
LOG_LINES_MAX: Final = 256

# --- names ----------------------------------------------------------------------------------------
NAME_CHARS_MAX: Final = 64  # lane, agent and model names
KEY_CHARS_MAX: Final = 200  # the key of an agent address
MESSAGE_CHARS_MAX: Final = 2_000  # the text of a failure

# --- tasks ----------------------------------------------------------------------------------------
PRIORITY_MIN: Final = -8
PRIORITY_MAX: Final = 7  # sixteen levels; RabbitMQ 4.3 has 32, Kafka and River 4 or none
DELAY_MS_MAX: Final = 10 * 366 * 24 * 3600 * 1000  # ten years
NOW_MS_MAX: Final = (1 << 53) - 1  # exact in a double, so every language can hold it
FUEL_MAX: Final = (1 << 62) - 1
MEMORY_BYTES_MAX: Final = 4 << 30  # the size of a 32-bit memory
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
EMITS_MAX: Final = 4_096  # per task, whatever the deploy's limit
TASK_TENSOR_BYTES_DEFAULT: Final = 64 << 20  # of the tensors that one task makes, together
TASK_TENSOR_BYTES_MAX: Final = 1 << 30  # a worker holds them in memory until the task ends
GROWTH_BYTES_DEFAULT: Final = 128 << 10  # a full window of them is half of a lane's budget
GROWTH_BYTES_MAX: Final = MESSAGE_BYTES_MAX
ASKS_DEFAULT: Final = 1_024  # asks that one agent may have postponed and not settled
ASKS_MAX: Final = 65_536
STEPS_DEFAULT: Final = 1_000  # messages of one call of a flow, its own included
STEPS_MAX: Final = 65_536
CALL_FUEL_DEFAULT: Final = 100_000_000_000  # of all steps of one call: a hundred steps with all the fuel of a task
CALL_BYTES_DEFAULT: Final = 4 << 20  # content of the messages of one call, which are kept until it ends
CALL_BYTES_MAX: Final = 32 << 20  # they travel to a worker in one message, with their headers
PATH_CHARS_MAX: Final = 256  # what a step of a call emitted, in short

# --- lanes ----------------------------------------------------------------------------------------
WINDOW_TASKS_DEFAULT: Final = 1_024
WINDOW_TASKS_MAX: Final = 65_536
LANE_TASKS_DEFAULT: Final = 1_000_000  # stamped and unretired tasks: the bound behind Busy and `overflow`
LANE_BYTES_DEFAULT: Final = 256 << 20  # of tasks, timers and states; a full window may grow by half of it
LANE_BYTES_MIN: Final = 1 << 10  # with less, a lane might never take a task
LANE_BYTES_MAX: Final = 1 << 40
LANES_BYTES_DEFAULT: Final = 16 << 30  # the sum of the budgets of all lanes of a broker
LANE_AGENTS_DEFAULT: Final = 100_000  # agents are never removed; calls are when they end
LANE_AGENTS_MAX: Final = 1 << 32
STARVATION_PASSES_DEFAULT: Final = 64  # a waiting priority level is served after so many issues from higher levels
LANES_MAX: Final = 1_024
PENDING_DEPLOYS_MAX: Final = 64  # deploys that wait for a worker's check; the oldest is refused first
DEPLOYS_MAX: Final = 4_096  # names per lane
DEAD_TASKS_MAX: Final = 10_000  # dead letters kept per lane; the oldest is dropped first
DEAD_SHARE: Final = 8  # dead letters may have this part of their lane's budget, on top of it, in bytes

# --- results and producers ------------------------------------------------------------------------
RESULTS_KEPT_MAX: Final = 200_000  # results kept for a later Await, per broker
RESULTS_KEPT_BYTES: Final = 256 << 20
PRODUCERS_MAX: Final = 10_000  # producers whose submit numbers are remembered; the longest silent is dropped first
CONNECTIONS_MAX: Final = 16_384  # producers' connections that are remembered; a ROUTER does not report when one closes
NUMBERS_KEPT_MAX: Final = 4_096  # answers kept per producer
CLIENT_UNSENT_BYTES: Final = 64 << 20  # messages queued for one slow peer before it is dropped
UNSENT_BYTES_MAX: Final = 256 << 20  # for all peers, before the one with most is dropped

# --- snapshots ------------------------------------------------------------------------------------
SNAPSHOT_RECORDS: Final = 50_000  # between two snapshots: a start reads about so many in a second or two
SNAPSHOT_BYTES: Final = 32 << 20

# --- workers --------------------------------------------------------------------------------------
HEARTBEAT_MS: Final = 1_000
PID_MAX: Final = (1 << 31) - 1  # the largest pid that the system calls accept
HEARTBEATS_MISSED_MAX: Final = 3  # zguide chapter 4: liveness 3 to 5 at 1 s
POISON_DEATHS_MAX: Final = 3  # workers that may die with a task running alone; Dask has 3, RabbitMQ 20
FOLD_TASKS_MAX: Final = 256  # tasks of one assignment
ASSIGNMENTS_PER_WORKER: Final = 2  # one runs, one waits, which hides the round trip
ASSIGNMENTS_MAX: Final = 64  # that a worker may ask to hold at once, for calls that advance together
ASSIGNMENTS_PER_GPU_WORKER: Final = 18  # 16 that advance together, and two that wait
ASSIGNMENT_TARGET_MS: Final = 10  # work in one assignment, by the measured time of earlier ones
ASSIGNMENT_BYTES_MAX: Final = 8 << 20
UNRETIRED_BYTES_MAX: Final = 64 << 20  # outcomes of a lane behind a slow head, before only the head is dispatched
TIMEOUT_GRACE_MS: Final = 5_000  # beyond an assignment's own timeouts, before its worker is removed
TRIES_MAX: Final = 3  # of a task that no worker can do, or in which workers get stuck
STUCK_MS: Final = 500  # from the interrupt of an executor until it counts as stuck
STUCK_MS_MAX: Final = 60_000  # a worker stuck for so long ends its process
ASSIGNMENTS_HELD_MAX: Final = 1_024  # in which one worker is stuck
PREPARATIONS_MAX: Final = 1_024  # in progress in one worker
PREPARE_MS_MAX: Final = 900_000  # of one assignment: the largest model from a slow disk takes minutes
LIVE_CALLS_DEFAULT: Final = 256  # calls of flows whose guests a worker keeps; without, their messages run again
LIVE_CALLS_MAX: Final = 1024
MODELS_SHOWN_MAX: Final = 64  # loaded models of a worker whose numbers are in its heartbeats

# --- streams of text ------------------------------------------------------------------------------
STREAM_PIECES_MAX: Final = 1_024  # in one message
STREAM_PIECE_CHARS_MAX: Final = 4_096  # about 16 MiB for a full message
STREAM_CHARS_MAX: Final = 1 << 20  # kept of one task, for those who subscribe later
STREAMS_CHARS_MAX: Final = 16 << 20  # kept of all tasks
STREAMS_FOLLOWED_MAX: Final = 4_096  # tasks whose text is published, since somebody has subscribed to it

# --- code -----------------------------------------------------------------------------------------
MODULE_BYTES_MAX: Final = 48 << 20
BUNDLE_FILES_MAX: Final = 4_096  # of one bundle; the standard library of a language is in its runtime
BUNDLE_PATH_BYTES_MAX: Final = 512
BUNDLE_DEPTH_MAX: Final = 32  # parts of a path
BUNDLE_TEXTS_MAX: Final = 4_096  # arguments; names and values of the environment
BUNDLE_TEXT_BYTES_MAX: Final = 256 << 10  # of the arguments together, and of the environment; exec has 128 KiB or more
WASM_ITEMS_MAX: Final = (
    100_000  # entries of a section; with the next bound, the broker reads any module in about a second
)
WASM_SECTION_BYTES_MAX: Final = 1 << 20  # of a section that the broker reads; code and data are not read
WASM_NAME_BYTES_MAX: Final = 16 << 10  # of a function, in the name section: the engine copies 20 of them at a trap
WASM_TABLES_MAX: Final = 4  # per module
WASM_TABLE_ELEMENTS_MAX: Final = 1 << 20  # 8 bytes each on the host; `table.grow` past it returns -1
COMPILE_MS_MAX: Final = 60_000
COMPILE_MEMORY_BYTES_MAX: Final = 4 << 30
COMPONENT_COMPILE_MS_MAX: Final = 240_000  # of a component, which may have an interpreter in it: 15 s on an idle core
RUNTIME_COMPILE_MS_MAX: Final = 600_000  # of an interpreter, once per user and version: 20 s on an idle core
IMAGE_MS_MAX: Final = 120_000  # for making an image; its bound of fuel comes first
IMAGE_BYTES_MAX: Final = 128 << 20  # of an image's memory that is not zero
IMAGES_KEPT_BYTES: Final = 2 << 30  # of a run's images on the disk; the longest unused are removed, and made again

# --- tensor store ---------------------------------------------------------------------------------
TENSOR_BYTES_MAX: Final = 64 << 30
TENSOR_STORE_BYTES_MAX: Final = 1 << 40
TENSOR_RANK_MAX: Final = 32  # axes; numpy allows 64, known models have at most 8
TENSOR_LEASE_MS: Final = 600_000  # an unreferenced tensor is kept for so long after its last use
