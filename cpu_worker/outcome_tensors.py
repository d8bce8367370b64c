"""What happens to the tensors of an outcome before it leaves the worker.

A result over PAYLOAD_BYTES_MAX becomes a tensor, since no message could carry it on; and tensors that the task has made
are written to the store if the outcome names them. When `keep_tensors` returns they are on the disk, so a broker never
journals an outcome whose tensors a crash could lose. What is written and never journaled is unreferenced, and collected
when its lease is over (docs/TENSORS.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from rota.common.errors import TensorError
from rota.common.limits import PAYLOAD_BYTES_MAX, TENSORS_PER_TASK_MAX
from rota.common.work import Done, Failed, Outcome, TensorRef
from rota.cpu_worker.guest import GuestStopped
from rota.cpu_worker.tensor_access import TensorAccess
from rota.tensors.format import tensor_digest


def keep_tensors(done: Done, made: Sequence[tuple[TensorRef, bytes]], access: TensorAccess | None) -> Outcome:
    """Return the outcome to report, after writing the tensors that it names and the task has `made`.

    A large result becomes the last tensor of the outcome, of dtype uint8 and one axis, and the result is empty. Raises
    `GuestStopped` if this host cannot keep a tensor.
    """
    result = done.result
    if result is not None and len(result) > PAYLOAD_BYTES_MAX:
        if len(done.tensors) == TENSORS_PER_TASK_MAX:
            text = f"result: {len(result)} bytes become a tensor, and it has {TENSORS_PER_TASK_MAX} tensors already"
            return Failed("bad_output", text, done.log, done.fuel)
        shape = (len(result),)
        large = TensorRef(tensor_digest("uint8", shape, result), "uint8", shape)
        done = done._replace(result=b"", tensors=(*done.tensors, large))
        made = (*made, (large, result))
    if made:
        named = dict.fromkeys(done.named_tensors)
        for ref, data in made:
            if ref in named:
                del named[ref]
                _keep(access, ref, data)
    return done


def _keep(access: TensorAccess | None, ref: TensorRef, data: bytes) -> None:
    if access is None:
        raise GuestStopped("faulted", "this worker has no tensor store")
    try:
        access.keep(ref, data)
    except TensorError as error:
        raise GuestStopped("faulted", error.message) from None
