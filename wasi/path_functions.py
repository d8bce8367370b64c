"""WASI functions about names: they begin at an open folder and never lead out of it. PURE."""

from __future__ import annotations

from typing import Final

from rota.wasi.costs import BYTE_FUEL
from rota.wasi.descriptors import (
    FD_READ,
    FD_WRITE,
    PATH_FILESTAT_SET_SIZE,
    Descriptor,
    OpenFile,
    OpenFolder,
    StandardStream,
)
from rota.wasi.errno import (
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    EMFILE,
    ENOENT,
    ENOTCAPABLE,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EROFS,
    SUCCESS,
    Refusal,
)
from rota.wasi.fd_functions import set_times, statistics
from rota.wasi.files import DeviceNode, FileNode, FolderNode, LinkNode, Node, PathEnd
from rota.wasi.guest_access import GuestAccess, load, load_path, store, store_u32
from rota.wasi.process import STDIN, Process

FOLLOW: Final = 1  # a bit of how a path is looked up
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8  # bits of how a file is opened
_FLAGS: Final = 0x1F


def path_create_directory(process: Process, guest: GuestAccess, number: int, pointer: int, size: int) -> int:
    place = _place(process, guest, number, pointer, size, follow=False)
    process.files.new_folder(guest, process.files.new_place(place), place.name)
    return SUCCESS


def path_filestat_get(
    process: Process, guest: GuestAccess, number: int, lookup: int, pointer: int, size: int, out: int
) -> int:
    place = _place(process, guest, number, pointer, size, follow=bool(lookup & FOLLOW))
    store(guest, out, statistics(_existing(place)))
    return SUCCESS


def path_filestat_set_times(
    process: Process,
    guest: GuestAccess,
    number: int,
    lookup: int,
    pointer: int,
    size: int,
    accessed: int,
    modified: int,
    flags: int,
) -> int:
    place = _place(process, guest, number, pointer, size, follow=bool(lookup & FOLLOW))
    set_times(process, _existing(place), accessed, modified, flags)
    return SUCCESS


def path_link(
    process: Process,
    guest: GuestAccess,
    number: int,
    lookup: int,
    pointer: int,
    size: int,
    to_number: int,
    to_pointer: int,
    to_size: int,
) -> int:
    if lookup & FOLLOW:
        return EINVAL
    node = _existing(_place(process, guest, number, pointer, size, follow=False))
    to = _place(process, guest, to_number, to_pointer, to_size, follow=False)
    if isinstance(node, DeviceNode | FolderNode):
        return EPERM
    if to.as_folder and to.node is None:
        return ENOENT
    process.files.link(guest, node, process.files.new_place(to), to.name)
    return SUCCESS


def path_open(
    process: Process,
    guest: GuestAccess,
    number: int,
    lookup: int,
    pointer: int,
    size: int,
    how: int,
    rights: int,
    inheriting: int,
    flags: int,
    out: int,
) -> int:
    """Open or make a file. Its rights are those of `rights` that the folder has to give."""
    folder = process.descriptors.folder(number)
    if flags & ~_FLAGS or how & ~0xF:
        return EINVAL
    if process.descriptors.is_full():
        return EMFILE
    load(guest, out, 4)
    path = load_path(guest, pointer, size)
    follow = bool(lookup & FOLLOW) and not how & EXCLUSIVE
    place = process.files.resolve(guest, folder.node, path, follow=follow)
    node = place.node
    if node is None:
        if not how & CREATE:
            return ENOENT
        if how & DIRECTORY or place.as_folder:
            return EINVAL if how & DIRECTORY else EISDIR
        node = process.files.new_file(guest, process.files.new_place(place), place.name)
    elif how & CREATE and how & EXCLUSIVE:
        return EEXIST
    rights &= folder.inheriting
    if isinstance(node, FileNode):
        opened: Descriptor = _open_file(process, guest, folder, place, node, how, rights, flags)
    elif isinstance(node, FolderNode):
        if how & (CREATE | TRUNCATE) or rights & FD_WRITE:
            return EINVAL if how & CREATE and how & DIRECTORY else EISDIR
        opened = OpenFolder(node, rights, inheriting & folder.inheriting, flags=flags, name=None)
    elif isinstance(node, DeviceNode):
        if place.as_folder or how & DIRECTORY:
            return ENOTDIR
        opened = StandardStream(node.stream, rights & (FD_READ if node.stream == STDIN else FD_READ | FD_WRITE))
    else:
        return ENOTDIR if how & DIRECTORY else ELOOP
    store_u32(guest, out, process.descriptors.add(opened))
    return SUCCESS


def _open_file(
    process: Process,
    guest: GuestAccess,
    folder: OpenFolder,
    place: PathEnd,
    node: FileNode,
    how: int,
    rights: int,
    flags: int,
) -> OpenFile:
    if place.as_folder or how & DIRECTORY:
        raise Refusal(ENOTDIR)
    if node.is_shared and (rights & FD_WRITE or how & TRUNCATE):
        raise Refusal(EROFS)
    if how & TRUNCATE:
        if not folder.rights & PATH_FILESTAT_SET_SIZE:
            raise Refusal(ENOTCAPABLE)
        process.files.resize(guest, node, 0)
    node.opens += 1
    return OpenFile(node, rights, flags)


def path_readlink(
    process: Process, guest: GuestAccess, number: int, pointer: int, size: int, buffer: int, buffer_size: int, out: int
) -> int:
    node = _existing(_place(process, guest, number, pointer, size, follow=False))
    if not isinstance(node, LinkNode):
        return EINVAL
    target = node.target.encode()[:buffer_size]
    guest.charge(len(target) * BYTE_FUEL)
    store(guest, buffer, target)
    store_u32(guest, out, len(target))
    return SUCCESS


def path_remove_directory(process: Process, guest: GuestAccess, number: int, pointer: int, size: int) -> int:
    place = _place(process, guest, number, pointer, size, follow=False)
    if place.node is not None and not isinstance(place.node, FolderNode):
        return ENOTDIR
    folder, node = process.files.own_place(place)
    assert isinstance(node, FolderNode)
    if not node.is_empty:
        return ENOTEMPTY
    process.files.remove(folder, place.name, node)
    return SUCCESS


def path_rename(
    process: Process,
    guest: GuestAccess,
    number: int,
    pointer: int,
    size: int,
    to_number: int,
    to_pointer: int,
    to_size: int,
) -> int:
    files = process.files
    place = _place(process, guest, number, pointer, size, follow=False)
    to = _place(process, guest, to_number, to_pointer, to_size, follow=False)
    folder, node = files.own_place(place)
    if to.folder is None:
        return EINVAL
    is_folder = isinstance(node, FolderNode)
    if (place.as_folder or to.as_folder) and not is_folder:
        return ENOTDIR
    if to.folder.removed:
        return ENOENT
    if isinstance(node, FolderNode) and files.is_inside(guest, to.folder, node):
        return EINVAL
    if to.node is node:
        return SUCCESS
    if to.node is not None:
        if to.folder.has_shared(to.name):
            return EROFS
        _check_replaceable(to.node, is_folder=is_folder)
        files.remove(to.folder, to.name, to.node)
    files.move(folder, place.name, node, to.folder, to.name)
    return SUCCESS


def _check_replaceable(node: Node, *, is_folder: bool) -> None:
    """Refuse a rename onto something of another kind, or onto a folder that holds something."""
    if isinstance(node, FolderNode):
        if not is_folder:
            raise Refusal(EISDIR)
        if not node.is_empty:
            raise Refusal(ENOTEMPTY)
    elif is_folder:
        raise Refusal(ENOTDIR)


def path_symlink(
    process: Process, guest: GuestAccess, pointer: int, size: int, number: int, to_pointer: int, to_size: int
) -> int:
    target = load_path(guest, pointer, size)
    if target.startswith("/"):
        return ENOTCAPABLE
    if not target:
        return ENOENT
    place = _place(process, guest, number, to_pointer, to_size, follow=False)
    if place.as_folder and not isinstance(place.node, FolderNode):
        return ENOENT if place.node is None else ENOTDIR
    process.files.new_symlink(guest, process.files.new_place(place), place.name, target)
    return SUCCESS


def path_unlink_file(process: Process, guest: GuestAccess, number: int, pointer: int, size: int) -> int:
    place = _place(process, guest, number, pointer, size, follow=False)
    if isinstance(place.node, FolderNode):
        return EISDIR
    folder, node = process.files.own_place(place)
    if place.as_folder:
        return ENOTDIR
    process.files.remove(folder, place.name, node)
    return SUCCESS


def _place(process: Process, guest: GuestAccess, number: int, pointer: int, size: int, *, follow: bool) -> PathEnd:
    """Return where a path leads from the folder with this descriptor."""
    folder = process.descriptors.folder(number)
    return process.files.resolve(guest, folder.node, load_path(guest, pointer, size), follow=follow)


def _existing(place: PathEnd) -> Node:
    if place.node is None:
        raise Refusal(ENOENT)
    if place.as_folder and not isinstance(place.node, FolderNode):
        raise Refusal(ENOTDIR)
    return place.node
