"""WASI functions about open files, folders and streams. PURE."""

from __future__ import annotations

import struct
from typing import Final

from rota.wasi.costs import BYTE_FUEL, ENTRY_FUEL
from rota.wasi.descriptors import (
    FD_ALLOCATE,
    FD_FILESTAT_SET_SIZE,
    FD_READ,
    FD_WRITE,
    OpenFile,
    OpenFolder,
    StandardStream,
)
from rota.wasi.errno import (
    EBADF,
    EFBIG,
    EINVAL,
    ENAMETOOLONG,
    ENOSPC,
    ENOTCAPABLE,
    ENOTDIR,
    EROFS,
    ESPIPE,
    SUCCESS,
    Refusal,
)
from rota.wasi.files import FileNode, FolderNode, Node, is_shared
from rota.wasi.guest_access import GuestAccess, charge_copy, load, store, store_u32, store_u64, vectors
from rota.wasi.process import Process

APPEND: Final = 1
_FLAGS: Final = 0x1F  # of a descriptor; beside APPEND they ask for what is always so: nothing blocks, nothing is late
SEEK_SET, SEEK_CUR, SEEK_END = range(3)
_ADVICES: Final = 6
_FILE_SIZE_MAX: Final = (1 << 63) - 1
_ACCESSED, _ACCESSED_NOW, _MODIFIED, _MODIFIED_NOW = 1, 2, 4, 8  # bits of what a call sets

_STATE: Final = struct.Struct("<BxH4xQQ")  # type, flags, rights, rights of what is opened in it
_STATISTICS: Final = struct.Struct("<QQB7xQQQQQ")  # device, inode, type, links, size, accessed, modified, changed
_ENTRY: Final = struct.Struct("<QQIB3x")  # next, inode, length of the name, type
_DEVICE: Final = 1


def fd_advise(process: Process, guest: GuestAccess, number: int, offset: int, size: int, advice: int) -> int:
    process.descriptors.file(number)
    return SUCCESS if advice < _ADVICES and offset <= _FILE_SIZE_MAX and size <= _FILE_SIZE_MAX else EINVAL


def fd_allocate(process: Process, guest: GuestAccess, number: int, offset: int, size: int) -> int:
    opened = _file_with(process, number, FD_WRITE | FD_ALLOCATE)
    if not size:
        return EINVAL
    _grow(process, guest, opened.node, offset + size)
    return SUCCESS


def fd_close(process: Process, guest: GuestAccess, number: int) -> int:
    found = process.descriptors.take(number)
    process.release(found)
    if process.tensors is not None and isinstance(found, OpenFile):
        process.tensors.closed(guest, process.files, found.node)
    return SUCCESS


def fd_datasync(process: Process, guest: GuestAccess, number: int) -> int:
    process.descriptors.get(number)
    return SUCCESS


def fd_sync(process: Process, guest: GuestAccess, number: int) -> int:
    process.descriptors.get(number)
    return SUCCESS


def fd_fdstat_get(process: Process, guest: GuestAccess, number: int, out: int) -> int:
    found = process.descriptors.get(number)
    store(guest, out, _STATE.pack(found.filetype, found.flags, found.rights, found.inheriting))
    return SUCCESS


def fd_fdstat_set_flags(process: Process, guest: GuestAccess, number: int, flags: int) -> int:
    found = process.descriptors.get(number)
    if flags & ~_FLAGS:
        return EINVAL
    found.flags = flags
    return SUCCESS


def fd_fdstat_set_rights(process: Process, guest: GuestAccess, number: int, rights: int, inheriting: int) -> int:
    """Give up rights; none can be gained."""
    found = process.descriptors.get(number)
    if rights & ~found.rights or inheriting & ~found.inheriting:
        return ENOTCAPABLE
    found.rights = rights
    found.inheriting = inheriting
    return SUCCESS


def fd_filestat_get(process: Process, guest: GuestAccess, number: int, out: int) -> int:
    found = process.descriptors.get(number)
    if isinstance(found, StandardStream):
        store(guest, out, _STATISTICS.pack(0, found.number, found.filetype, 1, 0, 0, 0, 0))
    else:
        store(guest, out, statistics(found.node))
    return SUCCESS


def statistics(node: Node) -> bytes:
    """Return the 64 bytes that describe a node."""
    times = node.times
    return _STATISTICS.pack(
        _DEVICE, node.inode, node.filetype, node.links, node.size, times.accessed, times.modified, times.changed
    )


def fd_filestat_set_size(process: Process, guest: GuestAccess, number: int, size: int) -> int:
    opened = _file_with(process, number, FD_WRITE | FD_FILESTAT_SET_SIZE)
    if size > opened.node.size:
        _grow(process, guest, opened.node, size)
    else:
        process.files.resize(guest, opened.node, size)
    return SUCCESS


def fd_filestat_set_times(
    process: Process, guest: GuestAccess, number: int, accessed: int, modified: int, flags: int
) -> int:
    found = process.descriptors.get(number)
    if isinstance(found, StandardStream):
        return EBADF
    set_times(process, found.node, accessed, modified, flags)
    return SUCCESS


def set_times(process: Process, node: Node, accessed: int, modified: int, flags: int) -> None:
    """Set times as the flags say; a pair of them that contradict each other is EINVAL."""
    if flags & ~0xF or flags & 3 == 3 or flags & 12 == 12:
        raise Refusal(EINVAL)
    if is_shared(node):
        raise Refusal(EROFS)
    now = process.now()
    if flags & (_ACCESSED | _ACCESSED_NOW):
        node.times.accessed = now if flags & _ACCESSED_NOW else accessed
    if flags & (_MODIFIED | _MODIFIED_NOW):
        node.times.modified = now if flags & _MODIFIED_NOW else modified
    node.times.changed = now


def fd_read(process: Process, guest: GuestAccess, number: int, buffers: int, count: int, out: int) -> int:
    found = _with(process, number, FD_READ)
    if isinstance(found, StandardStream):
        return _read_stream(process, guest, found, buffers, count, out)
    assert isinstance(found, OpenFile)
    size = _read_file(guest, found.node, found.position, buffers, count, out)
    found.position += size
    return SUCCESS


def fd_pread(process: Process, guest: GuestAccess, number: int, buffers: int, count: int, offset: int, out: int) -> int:
    found = _with(process, number, FD_READ)
    if not isinstance(found, OpenFile):
        return ESPIPE
    _read_file(guest, found.node, offset, buffers, count, out)
    return SUCCESS


def _read_stream(
    process: Process, guest: GuestAccess, stream: StandardStream, buffers: int, count: int, out: int
) -> int:
    wanted = vectors(guest, buffers, count)
    size = process.readable(stream.number, sum([length for _, length in wanted]))
    guest.charge(size * BYTE_FUEL)
    store_u32(guest, out, size)
    _scatter(guest, wanted, process.read_stream(stream.number, size))
    return SUCCESS


def _read_file(guest: GuestAccess, node: FileNode, offset: int, buffers: int, count: int, out: int) -> int:
    wanted = vectors(guest, buffers, count)
    size = max(0, min(node.size - offset, sum([length for _, length in wanted])))
    guest.charge(size * BYTE_FUEL)
    store_u32(guest, out, size)
    with memoryview(node.data) as data:
        _scatter(guest, wanted, data[offset : offset + size])
    return size


def _scatter(guest: GuestAccess, wanted: list[tuple[int, int]], data: bytes | memoryview) -> None:
    """Store data in buffers that are known to be inside the memory."""
    start = 0
    for pointer, length in wanted:
        if start >= len(data):
            return
        store(guest, pointer, data[start : start + length])
        start += length


def fd_write(process: Process, guest: GuestAccess, number: int, buffers: int, count: int, out: int) -> int:
    found = _with(process, number, FD_WRITE)
    data = _gather(guest, buffers, count, out)
    if isinstance(found, StandardStream):
        process.write_stream(found.number, data)
        store_u32(guest, out, len(data))
        return SUCCESS
    assert isinstance(found, OpenFile)
    offset = found.node.size if found.flags & APPEND else found.position
    size = _write_file(process, guest, found.node, offset, data)
    found.position = offset + size
    store_u32(guest, out, size)
    return SUCCESS


def fd_pwrite(
    process: Process, guest: GuestAccess, number: int, buffers: int, count: int, offset: int, out: int
) -> int:
    found = _with(process, number, FD_WRITE)
    if not isinstance(found, OpenFile):
        return ESPIPE
    data = _gather(guest, buffers, count, out)
    if found.flags & APPEND:  # as Linux does
        offset = found.node.size
    store_u32(guest, out, _write_file(process, guest, found.node, offset, data))
    return SUCCESS


def _gather(guest: GuestAccess, buffers: int, count: int, out: int) -> bytes:
    """Return what the buffers hold, if the number of bytes can be stored at `out`."""
    wanted = vectors(guest, buffers, count)
    size = sum([length for _, length in wanted])
    load(guest, out, 4)
    guest.charge(size * BYTE_FUEL)
    return b"".join([load(guest, pointer, length) for pointer, length in wanted])


def _write_file(process: Process, guest: GuestAccess, node: FileNode, offset: int, data: bytes) -> int:
    """Write, as far as there is room, and return how many bytes were; a gap before `offset` becomes zeros."""
    if not data:
        return 0
    if node.is_shared:
        raise Refusal(EROFS)
    end = offset + len(data)
    if end > _FILE_SIZE_MAX:
        raise Refusal(EFBIG)
    if end > node.size:
        room = process.files.room(guest)
        if offset - node.size >= room:
            raise Refusal(ENOSPC)
        end = min(end, node.size + room)
        _grow(process, guest, node, end)
    content = node.data
    assert type(content) is bytearray
    content[offset:end] = data[: end - offset]
    node.times.modified = node.times.changed = process.now()
    return end - offset


def _grow(process: Process, guest: GuestAccess, node: FileNode, size: int) -> None:
    """Grow a file with zeros, if it is smaller."""
    if size > _FILE_SIZE_MAX:
        raise Refusal(EFBIG)
    if node.is_shared:
        raise Refusal(EROFS)
    more = size - node.size
    if more > 0:
        if more > process.files.room(guest):
            raise Refusal(ENOSPC)
        guest.charge(more * BYTE_FUEL)
        process.files.resize(guest, node, size)


def fd_seek(process: Process, guest: GuestAccess, number: int, offset: int, whence: int, out: int) -> int:
    found = process.descriptors.get(number)
    if not isinstance(found, OpenFile):
        return ESPIPE if isinstance(found, StandardStream) else EBADF
    if whence > SEEK_END:
        return EINVAL
    start = (0, found.position, found.node.size)[whence]
    position = start + (offset - (1 << 64) if offset >> 63 else offset)
    if not 0 <= position <= _FILE_SIZE_MAX:
        return EINVAL
    store_u64(guest, out, position)
    found.position = position
    return SUCCESS


def fd_tell(process: Process, guest: GuestAccess, number: int, out: int) -> int:
    found = process.descriptors.get(number)
    if not isinstance(found, OpenFile):
        return ESPIPE if isinstance(found, StandardStream) else EBADF
    store_u64(guest, out, found.position)
    return SUCCESS


def fd_prestat_get(process: Process, guest: GuestAccess, number: int, out: int) -> int:
    store(guest, out, struct.pack("<II", 0, len(_preopened(process, number))))
    return SUCCESS


def fd_prestat_dir_name(process: Process, guest: GuestAccess, number: int, pointer: int, size: int) -> int:
    name = _preopened(process, number)
    if size < len(name):
        return ENAMETOOLONG
    store(guest, pointer, name)
    return SUCCESS


def _preopened(process: Process, number: int) -> bytes:
    """Return the name of a preopened folder."""
    found = process.descriptors.get(number)
    if not isinstance(found, OpenFolder) or found.name is None:
        raise Refusal(EBADF)
    return found.name


def fd_readdir(process: Process, guest: GuestAccess, number: int, buffer: int, size: int, cookie: int, out: int) -> int:
    """Store entries, the last one cut where the buffer ends. Cookie 1 is after `.`, 2 after `..`, then 3 and an
    entry's number.
    """
    found = process.descriptors.get(number)
    if not isinstance(found, OpenFolder):
        return EBADF if isinstance(found, StandardStream) else ENOTDIR
    charge_copy(guest, buffer, size)
    node = found.node
    data = bytearray()
    if cookie < 1:
        data += _entry(1, node.inode, ".", FolderNode.filetype)
    if cookie < 2:
        data += _entry(2, node.parent_inode, "..", FolderNode.filetype)
    for place, name in node.entries():
        guest.charge(ENTRY_FUEL)
        if len(data) >= size:
            break
        if place + 3 > cookie:
            inside = node.get(name)
            assert inside is not None
            data += _entry(place + 3, inside.inode, name, inside.filetype)
    del data[size:]
    store(guest, buffer, bytes(data))
    store_u32(guest, out, len(data))
    return SUCCESS


def _entry(following: int, inode: int, name: str, filetype: int) -> bytes:
    encoded = name.encode()
    return _ENTRY.pack(following, inode, len(encoded), filetype) + encoded


def fd_renumber(process: Process, guest: GuestAccess, number: int, to: int) -> int:
    process.release(process.descriptors.move(number, to))
    return SUCCESS


def _with(process: Process, number: int, right: int) -> StandardStream | OpenFile | OpenFolder:
    """Return a descriptor that has this right, to read or to write; so it is no folder."""
    found = process.descriptors.get(number)
    if not found.rights & right:
        raise Refusal(EBADF)
    return found


def _file_with(process: Process, number: int, rights: int) -> OpenFile:
    """Return a file that has one of these rights."""
    opened = process.descriptors.file(number)
    if not opened.rights & rights:
        raise Refusal(EBADF)
    return opened


assert _STATE.size == 24
assert _STATISTICS.size == 64
assert _ENTRY.size == 24
