"""Notices the end of other processes on this host, within milliseconds.

On Linux each process has a descriptor (pidfd_open(2)) that becomes readable when it ends; they are in one epoll set, so
a poller watches a single descriptor. Elsewhere `gone` asks the system about each process and must be called at every
tick. A zombie counts as ended on Linux and Windows, on macOS only after its parent has reaped it.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)

if sys.platform == "linux":

    class ProcessWatch:
        """Watches processes by the name of the worker that each one is."""

        def __init__(self) -> None:
            self._set = select.epoll()
            self._descriptors: dict[str, int] = {}
            self._workers: dict[int, str] = {}
            self._gone: list[str] = []

        def add(self, worker: str, pid: int) -> None:
            """Watch a process. One that has ended already is reported by the next `gone`."""
            self.remove(worker)
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone.append(worker)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
                log.warning("this system has no pidfd_open: only its silence will show the end of worker %s", worker)
                return
            self._descriptors[worker] = descriptor
            self._workers[descriptor] = worker
            self._set.register(descriptor, select.EPOLLIN)

        def remove(self, worker: str) -> None:
            """Watch it no longer. Harmless if it is not watched."""
            if worker in self._gone:
                self._gone.remove(worker)
            descriptor = self._descriptors.pop(worker, None)
            if descriptor is not None:
                del self._workers[descriptor]
                self._set.unregister(descriptor)
                os.close(descriptor)

        def fds(self) -> Sequence[int]:
            """Return the descriptors to poll; they never change."""
            return (self._set.fileno(),)

        def gone(self) -> list[str]:
            """Return, once, the workers whose processes have ended, in the order in which they were added."""
            ended = {self._workers[descriptor] for descriptor, _ in self._set.poll(0)}
            found = self._gone + [worker for worker in self._descriptors if worker in ended]
            for worker in found:
                self.remove(worker)
            self._gone = []
            return found

        def close(self) -> None:
            for worker in list(self._descriptors):
                self.remove(worker)
            self._set.close()

else:

    class ProcessWatch:
        """Watches processes by the name of the worker that each one is."""

        def __init__(self) -> None:
            self._pids: dict[str, int] = {}

        def add(self, worker: str, pid: int) -> None:
            """Watch a process. One that has ended already is reported by the next `gone`."""
            self._pids[worker] = pid

        def remove(self, worker: str) -> None:
            """Watch it no longer. Harmless if it is not watched."""
            self._pids.pop(worker, None)

        def fds(self) -> Sequence[int]:
            """Return the descriptors to poll: none here, so call `gone` at every tick."""
            return ()

        def gone(self) -> list[str]:
            """Return, once, the workers whose processes have ended, in the order in which they were added."""
            found = [worker for worker, pid in self._pids.items() if not _is_alive(pid)]
            for worker in found:
                del self._pids[worker]
            return found

        def close(self) -> None:
            self._pids.clear()


if sys.platform == "win32":
    import ctypes

    _SYNCHRONIZE = 0x0010_0000
    _WAIT_TIMEOUT = 0x102

    def _is_alive(pid: int) -> bool:
        # os.kill(pid, 0) would end the process: on Windows it is TerminateProcess for every signal but two.
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(_SYNCHRONIZE, False, pid)
        if not handle:
            return False
        try:
            return bool(kernel.WaitForSingleObject(handle, 0) == _WAIT_TIMEOUT)
        finally:
            kernel.CloseHandle(handle)

else:

    def _is_alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except OSError as error:
            return error.errno == errno.EPERM  # another user's process, but it exists
        return True
