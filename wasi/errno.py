"""The error numbers of WASI preview 1 that our functions return. PURE."""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0
E2BIG: Final = 1  # too many or too much at once
EACCES: Final = 2
EBADF: Final = 8  # no such descriptor
EBUSY: Final = 10
EEXIST: Final = 20
EFAULT: Final = 21  # a pointer or length outside the memory
EFBIG: Final = 22
EILSEQ: Final = 25  # a path that is not UTF-8
EINVAL: Final = 28
EIO: Final = 29  # this host cannot read a tensor; the task ends as `faulted`
EISDIR: Final = 31
ELOOP: Final = 32
EMFILE: Final = 33  # too many open files
EMLINK: Final = 34
ENAMETOOLONG: Final = 37
ENOENT: Final = 44
ENOSPC: Final = 51  # the task's files would be over its memory_bytes
ENOSYS: Final = 52
ENOTDIR: Final = 54
ENOTEMPTY: Final = 55
ENOTSOCK: Final = 57
ENOTSUP: Final = 58
EPERM: Final = 63
EPIPE: Final = 64
EROFS: Final = 69  # a file that came with the deploy
ESPIPE: Final = 70
EXDEV: Final = 75
ENOTCAPABLE: Final = 76  # outside the folder of the descriptor


class Refusal(Exception):
    """A function ends with this error number."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno
