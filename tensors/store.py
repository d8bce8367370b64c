"""The tensor store: a folder of sealed, content-addressed `.npy` files that all processes of a host map without copies.

    root/ab/cd/<64 hex digits>.npy   sealed: complete, read-only, never changed; named by the BLAKE3 of the file
    root/drafts/*.npy                being written, each locked by its writer
    root/lock                        held shared to find or seal a tensor, exclusively to remove one

A path is made only of a digest, and a file with its final name is complete. So no reference can point outside the
folder, and a file can be mapped as soon as it is found. format.py has the file format and digest, host/files.py locks
and disk errors. docs/TENSORS.md describes all this and the lifecycle; change it with this file.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy
import numpy.typing

from rota.common.errors import TensorError
from rota.common.limits import TENSOR_BYTES_MAX, TENSOR_STORE_BYTES_MAX
from rota.common.work import TensorRef
from rota.host.files import allocate, disk_errors, locked, sync_folder, try_lock, unlink, write_all
from rota.tensors.format import (
    DIGEST_BYTES,
    check_tensor,
    dtype_name,
    file_digest,
    flat_bytes,
    npy_header,
    numpy_dtype,
    tensor_digest,
)

_SEALED_MODE: Final = 0o444
_SEALED_NAME: Final = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}\.npy")
_FAN_OUT_NAME: Final = re.compile(r"[0-9a-f]{2}")
_CREATES_PER_COUNT: Final = 256  # drafts between two counts of the store's size, since other processes write too


class CollectReport(NamedTuple):
    """What a collection removed, and how many files it could not remove (Windows: mapped files)."""

    removed: int
    bytes: int
    held: int


class TensorStats(NamedTuple):
    files: int
    bytes: int
    drafts: int
    draft_bytes: int


class TensorStore:
    """A folder of tensors. Any number of processes may use one folder, and threads may share a store."""

    def __init__(
        self,
        root: Path,
        *,
        lender: Path | None = None,
        store_bytes_max: int = TENSOR_STORE_BYTES_MAX,
        tensor_bytes_max: int = TENSOR_BYTES_MAX,
    ) -> None:
        """`lender` is a second store, only read, for tensors that `root` does not have."""
        self.root = root
        self._lender = lender
        self._drafts = root / "drafts"
        self._lock = root / "lock"
        self._store_bytes_max = store_bytes_max
        self._tensor_bytes_max = tensor_bytes_max
        self._counted_bytes = 0
        self._creates_to_count = 0
        self._synced_folders: set[Path] = set()  # membership only
        with disk_errors(f"make the tensor store {root}", root, 0):
            self._drafts.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, dtype: numpy.typing.DTypeLike, shape: tuple[int, ...]) -> TensorDraft:
        """Return a draft whose `.array` is a zeroed, mapped tensor to fill. Use it in a `with` block, seal it there."""
        name = dtype_name(dtype)
        header, total = self._check_new(name, shape)
        numpy_type = numpy_dtype(name)
        descriptor, path = self._new_file()
        try:
            with disk_errors(f"create a tensor {name} {shape}", self.root, total):
                allocate(descriptor, total)
                mapping = mmap.mmap(descriptor, total, access=mmap.ACCESS_WRITE)
        except BaseException:
            _drop_file(descriptor, path)
            raise
        mapping[: len(header)] = header
        array: numpy.typing.NDArray[Any] = numpy.ndarray(shape, numpy_type, buffer=mapping, offset=len(header))
        return TensorDraft(self, descriptor, path, mapping, array)

    def put(self, array: numpy.typing.NDArray[Any], *, durable: bool = True) -> TensorRef:
        """Store a copy of an array and return its reference. Content that exists is not written again."""
        name, shape = dtype_name(array.dtype), tuple(array.shape)
        data = flat_bytes(array)
        ref = TensorRef(tensor_digest(name, shape, data), name, shape)
        self.keep(ref, data, durable=durable)
        return ref

    def keep(self, ref: TensorRef, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Store a tensor whose reference is known. `data`: its elements as flat bytes, as in a file.

        The digest of `ref` must be that of `tensor_digest`. Raises `TensorError` if the store has no room.
        """
        header, total = self._check_new(ref.dtype, ref.shape)
        if self._adopt(ref, durable):
            return
        descriptor, path = self._new_file()
        try:
            with disk_errors(f"store a tensor {ref.dtype} {ref.shape}", self.root, total):
                write_all(descriptor, header)
                write_all(descriptor, data)
            self._publish(descriptor, path, ref, durable)
        finally:
            _drop_file(descriptor, path)

    def open(self, ref: TensorRef, *, verify: bool = False) -> numpy.typing.NDArray[Any]:
        """Return the tensor as a read-only array over the mapped file, valid even after the file is removed.

        Raises `TensorError` if the file is missing or is not this tensor. Header and size are always compared;
        `verify` hashes the data as well, which takes about 0.3 s per GiB.
        """
        header, total = _expected(ref)
        numpy_type = numpy_dtype(ref.dtype)
        path = self._path(ref.digest)
        if self._lender is not None and not path.exists():
            path = self._lender / path.relative_to(self.root)
        mapping = _map_sealed(path, ref, total)
        if mapping[: len(header)] != header:
            raise _damaged(ref, path, "its header is another tensor's")
        if verify and file_digest(mapping) != ref.digest:
            raise _damaged(ref, path, "its content has changed")
        array: numpy.typing.NDArray[Any] = numpy.ndarray(ref.shape, numpy_type, buffer=mapping, offset=len(header))
        return array

    def touch(self, ref: TensorRef) -> None:
        """Renew the lease of a tensor. Raises `TensorError` if it is not in the store."""
        path = self._path(ref.digest)
        with disk_errors(f"touch tensor {ref.digest.hex()}", self.root, 0), locked(self._lock, exclusive=False):
            try:
                os.utime(path)
            except FileNotFoundError as error:
                raise _missing(ref, path) from error

    def collect(
        self, referenced: AbstractSet[bytes] | Callable[[bytes], bool], now_s: float, lease_s: float
    ) -> CollectReport:
        """Remove unreferenced tensors not touched for `lease_s` seconds, and drafts of dead writers.

        Existing maps stay valid: the file's name is removed, its pages stay until the last map is closed. Windows does
        not allow that; there the file stays and the next collection tries again.
        """
        is_referenced = referenced if callable(referenced) else referenced.__contains__
        oldest_s = now_s - lease_s
        removed = freed = held = 0
        for path in self._sealed_paths():
            if is_referenced(bytes.fromhex(path.stem)) or not _is_older(path, oldest_s):
                continue
            # Check again under the lock: the lease may have been renewed meanwhile.
            with locked(self._lock, exclusive=True):
                size = unlink(path) if _is_older(path, oldest_s) else 0
            held += size is None
            removed += bool(size)
            freed += size or 0
        for path in self._draft_paths():
            size = _remove_stale_draft(path, oldest_s)
            removed += bool(size)
            freed += size
        return CollectReport(removed, freed, held)

    def stats(self) -> TensorStats:
        """Count files and bytes by walking the folder."""
        sizes = [size for path in self._sealed_paths() if (size := _size(path)) is not None]
        drafts = [size for path in self._draft_paths() if (size := _size(path)) is not None]
        return TensorStats(len(sizes), sum(sizes), len(drafts), sum(drafts))

    # --- writing ------------------------------------------------------------------------------------------------------

    def _check_new(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, int]:
        """Return header and size of a new tensor's file. Raises `TensorError` if this store may not take it."""
        data_bytes = check_tensor(dtype, shape)
        if data_bytes > self._tensor_bytes_max:
            raise TensorError(
                f"a tensor {dtype} {shape} has {data_bytes} bytes and this store takes at most "
                f"{self._tensor_bytes_max} per tensor: split it",
                bytes=data_bytes,
            )
        header = npy_header(dtype, shape)
        total = len(header) + data_bytes
        self._creates_to_count -= 1
        if self._creates_to_count < 0 or self._counted_bytes + total > self._store_bytes_max:
            stats = self.stats()
            self._counted_bytes = stats.bytes + stats.draft_bytes
            self._creates_to_count = _CREATES_PER_COUNT
        if self._counted_bytes + total > self._store_bytes_max:
            raise TensorError(
                f"the tensor store {self.root} holds {self._counted_bytes} of {self._store_bytes_max} bytes and "
                f"{total} more do not fit: collect unreferenced tensors, keep fewer results, or raise the limit",
                bytes=total,
                held=self._counted_bytes,
            )
        self._counted_bytes += total
        return header, total

    def _new_file(self) -> tuple[int, Path]:
        with disk_errors("start a tensor", self.root, 0):
            descriptor, name = tempfile.mkstemp(suffix=".npy", dir=self._drafts)
        try_lock(descriptor)  # shows collections that the writer is alive
        return descriptor, Path(name)

    def _publish(self, descriptor: int, draft: Path, ref: TensorRef, durable: bool) -> None:
        """Link a complete draft to its final name. The caller removes the draft's own name."""
        path = self._path(ref.digest)
        total = os.fstat(descriptor).st_size
        with disk_errors(f"seal tensor {ref.digest.hex()}", self.root, total):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(draft, _SEALED_MODE)
            if durable:
                os.fsync(descriptor)
            with locked(self._lock, exclusive=False):
                try:
                    os.link(draft, path)  # unlike rename, never replaces a file
                except FileExistsError:
                    if not _is_intact(path, ref):
                        os.replace(draft, path)
                os.utime(path)
            if durable:
                self._sync_folders(path.parent)

    def _adopt(self, ref: TensorRef, durable: bool) -> bool:
        """Renew the lease of a tensor that exists and is intact; return whether there is one."""
        path = self._path(ref.digest)
        with locked(self._lock, exclusive=False):
            if not _is_intact(path, ref):
                return False
            os.utime(path)
        if durable:  # it may have been sealed without `durable`
            with disk_errors(f"sync tensor {ref.digest.hex()}", self.root, 0), open(path, "rb") as file:
                os.fsync(file.fileno())
            self._sync_folders(path.parent)
        return True

    def _sync_folders(self, folder: Path) -> None:
        """Make a new name durable, and the first time also those of the folders above."""
        sync_folder(folder)
        if folder not in self._synced_folders:
            sync_folder(folder.parent)
            sync_folder(self.root)
            self._synced_folders.add(folder)

    # --- paths --------------------------------------------------------------------------------------------------------

    def _path(self, digest: bytes) -> Path:
        if not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES:
            raise TensorError(f"{digest!r} is no tensor digest: {DIGEST_BYTES} bytes are needed")
        name = digest.hex()
        return self.root / name[:2] / name[2:4] / f"{name}.npy"

    def _sealed_paths(self) -> Iterator[Path]:
        """Yield the files whose name and place are those of tensors; other files are ignored."""
        for first in _names(self.root, _FAN_OUT_NAME):
            for second in _names(self.root / first, _FAN_OUT_NAME):
                for name in _names(self.root / first / second, _SEALED_NAME):
                    if name.startswith(first + second):
                        yield self.root / first / second / name

    def _draft_paths(self) -> Iterator[Path]:
        for name in _names(self._drafts, re.compile(r".+\.npy")):
            yield self._drafts / name


class TensorDraft:
    """A tensor being written. Leaving the `with` block without `seal()` removes it.

    Views of `array` taken before the seal stay writable for numpy: writing through one afterwards damages the sealed
    tensor.
    """

    def __init__(
        self,
        store: TensorStore,
        descriptor: int,
        path: Path,
        mapping: mmap.mmap,
        array: numpy.typing.NDArray[Any],
    ) -> None:
        self.array = array
        self._store = store
        self._descriptor = descriptor
        self._path = path
        self._mapping: mmap.mmap | None = mapping

    def seal(self, *, durable: bool = True) -> TensorRef:
        """Make the tensor immutable, name it by its content, and return its reference.

        With `durable`, file and name are on the disk when this returns, which a submit that names the tensor needs.
        Without, a crash of the host can lose the tensor while the journal still names it.
        """
        assert self._mapping is not None, "this draft was sealed or dropped before"
        self.array.flags.writeable = False
        dtype, shape = self.array.dtype.name, tuple(self.array.shape)
        ref = TensorRef(file_digest(self._mapping), dtype, shape)
        try:
            if not self._store._adopt(ref, durable):
                if durable:
                    with disk_errors(f"write tensor {ref.digest.hex()}", self._store.root, len(self._mapping)):
                        self._mapping.flush()
                self._store._publish(self._descriptor, self._path, ref, durable)
        finally:
            self.drop()
        return ref

    def drop(self) -> None:
        """Remove the draft, if it is not sealed. A sealed tensor stays."""
        if self._mapping is not None:
            self._mapping = None  # unmapped when the last array over it is gone
            self.array.flags.writeable = False
            _drop_file(self._descriptor, self._path)

    def __enter__(self) -> TensorDraft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()


def _expected(ref: TensorRef) -> tuple[bytes, int]:
    data_bytes = check_tensor(ref.dtype, ref.shape)
    header = npy_header(ref.dtype, ref.shape)
    return header, len(header) + data_bytes


def _map_sealed(path: Path, ref: TensorRef, total: int) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise _missing(ref, path) from error
    except OSError as error:
        raise _damaged(ref, path, f"it cannot be opened ({error.strerror})") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != total:
            raise _damaged(ref, path, f"it has {found.st_size} bytes and {ref.dtype} {ref.shape} needs {total}")
        with disk_errors(f"map tensor {ref.digest.hex()}", path.parent, total):
            return mmap.mmap(descriptor, total, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _is_intact(path: Path, ref: TensorRef) -> bool:
    """Return whether a file has the size and header of its tensor. Torn or foreign files fail this cheap check."""
    header, total = _expected(ref)
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == total and file.read(len(header)) == header
    except FileNotFoundError:
        return False


def _missing(ref: TensorRef, path: Path) -> TensorError:
    return TensorError(
        f"tensor {ref.digest.hex()} ({ref.dtype} {ref.shape}) is not in the store: its lease ran out, or it was sealed "
        "in another folder; store it again and submit with the new reference",
        digest=ref.digest.hex(),
        path=str(path),
    )


def _damaged(ref: TensorRef, path: Path, what: str) -> TensorError:
    return TensorError(
        f"tensor {ref.digest.hex()} ({ref.dtype} {ref.shape}) is damaged: {what}; "
        f"delete {path} and store the tensor again",
        digest=ref.digest.hex(),
        path=str(path),
    )


def _names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
    except FileNotFoundError:
        return []


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _is_older(path: Path, oldest_s: float) -> bool:
    try:
        return path.stat().st_mtime < oldest_s
    except FileNotFoundError:
        return False


def _remove_stale_draft(path: Path, oldest_s: float) -> int:
    """Remove an old draft that no living writer locks; return the bytes freed."""
    if not _is_older(path, oldest_s):
        return 0
    try:
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        abandoned = try_lock(descriptor)
    finally:
        os.close(descriptor)
    return (unlink(path) or 0) if abandoned else 0


def _drop_file(descriptor: int, path: Path) -> None:
    """Close a draft and remove its name, in this order because Windows cannot remove an open file."""
    os.close(descriptor)
    unlink(path)
