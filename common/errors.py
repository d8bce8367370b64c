"""Every error that Rota raises at a boundary, and its stable code on the wire. PURE.

    RotaError
    ├── LocalError            the caller broke a rule: fix the call
    │   ├── BadTarget         an address that is not `name/key`, `name` or `model:NAME`
    │   ├── BadPayload        a payload of the wrong type or over a limit
    │   ├── ConfigError       a setting, flag or folder that cannot be used
    │   ├── CodeError         a module or model that cannot be deployed
    │   │   └── NotKept       the broker does not have the bytes of the code: send them
    │   ├── TensorError       a tensor that is missing, damaged or over a limit
    │   └── ConversationError a conversation that is missing or damaged, or cannot be stored
    ├── RemoteError           the other side answered with an error
    │   ├── Busy              the lane is full: wait and send again
    │   ├── Draining          the broker takes no more work
    │   ├── StorageFull       the journal cannot be written now; nothing was accepted
    │   ├── UnknownLane       no lane of that name
    │   ├── UnknownTask       no task of that number
    │   ├── Expired           the result is no longer kept
    │   ├── NumberReused      the same submit number came with other content
    │   └── StaleNumber       a submit number so old that its answer is no longer kept
    ├── TaskFailed            a task's outcome is a failure; kind and message say which
    ├── TextReplaced          the result's text is another than what was streamed: the model is not repeatable
    ├── ProtocolError         bytes that are not a message of this protocol
    │   ├── NotGreeted        a request on a connection that has not said Hello
    │   └── VersionMismatch   the peer speaks another protocol version
    ├── JournalError          a run file that is torn, corrupt or foreign
    │   └── JournalLost       the run file was removed or taken over while it was written to
    ├── DeviceLost            the device of this worker's models fails every call: its process has to end
    └── NotReachable          no broker answered in time

Raise at the boundary, `assert` inside. Codes are never reused; a retired one stays listed in docs/PROTOCOL.md.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RotaError(Exception):
    """Base of all. `code` is the stable name on the wire; `fields` are the values that programs read."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **fields: Any) -> None:  # positional: a peer's fields may have any name
        super().__init__(message)
        self.message = message
        self.fields = fields


class LocalError(RotaError):
    code = "local"


class BadTarget(LocalError):
    code = "bad_target"


class BadPayload(LocalError):
    code = "bad_payload"


class ConfigError(LocalError):
    code = "config"


class CodeError(LocalError):
    code = "bad_code"


class NotKept(CodeError):
    """`fields`: missing, the digests in hex."""

    code = "not_kept"


class BadChange(LocalError):
    code = "bad_change"


class TensorError(LocalError):
    code = "bad_tensor"


class ConversationError(LocalError):
    code = "bad_conversation"


class RemoteError(RotaError):
    code = "remote"


class Busy(RemoteError):
    code = "busy"


class Draining(RemoteError):
    code = "draining"


class StorageFull(RemoteError):
    code = "storage_full"


class UnknownLane(RemoteError):
    code = "unknown_lane"


class UnknownTask(RemoteError):
    code = "unknown_task"


class Expired(RemoteError):
    code = "expired"


class NumberReused(RemoteError):
    code = "number_reused"


class StaleNumber(RemoteError):
    code = "stale_number"


class TaskFailed(RotaError):
    """A task failed. `fields`: seq, kind, attempts, log."""

    code = "task_failed"


class TextReplaced(RotaError):
    """Streamed text is not the start of the result's. `fields`: seq."""

    code = "text_replaced"


class ProtocolError(RotaError):
    code = "protocol"


class NotGreeted(ProtocolError):
    code = "hello_first"


class WorkerStuck(RotaError):
    code = "stuck"


class DeviceLost(RotaError):
    code = "device_lost"


class VersionMismatch(ProtocolError):
    code = "version"


class JournalError(RotaError):
    code = "journal"


class JournalLost(JournalError):
    code = "journal_lost"


class NotReachable(RotaError):
    code = "not_reachable"


_BY_CODE: dict[str, type[RotaError]] = {
    cls.code: cls
    for cls in (
        BadTarget, BadPayload, ConfigError, CodeError, TensorError, ConversationError, RemoteError, Busy, Draining,
        StorageFull, UnknownLane, UnknownTask, Expired, NumberReused, StaleNumber, TaskFailed, ProtocolError,
        NotGreeted, NotKept, WorkerStuck, VersionMismatch, JournalError, NotReachable,
    )
}  # fmt: skip

CODES: tuple[str, ...] = tuple(_BY_CODE)


def error_from_wire(code: str, message: str, fields: dict[str, Any]) -> RotaError:
    """Return the error that a peer sent; an unknown code becomes a `RemoteError` with that code."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return RemoteError(f"{message} (code {code})", **fields)
    return cls(message, **fields)
