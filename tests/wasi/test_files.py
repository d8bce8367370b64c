"""Files, folders, links and paths of the WASI file system, called as a guest calls them."""

from __future__ import annotations

import struct

import pytest
from wasi_guest import DATA_AT, OUT_AT, PATH_TOO_AT, ROOT, FuelSpent, WasiKit

from rota.wasi import errno

CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8


def kit() -> WasiKit:
    """Return a process with shared files `a.txt` and `lib/b.txt`, a file and a folder of its own, and links."""
    made = WasiKit({"a.txt": b"shared", "lib/b.txt": b"inside"})
    made.make("own.txt", b"own")
    assert made.on_path("path_create_directory", "box") == 0
    links = (("../own.txt", "box/up"), ("loop2", "loop1"), ("loop1", "loop2"), ("box/../../own.txt", "out"))
    for target, name in links:
        assert symlink(made, target, name) == 0
    return made


def symlink(made: WasiKit, target: str, name: str) -> int:
    return made.call("path_symlink", *made.path(target, PATH_TOO_AT), ROOT, *made.path(name))


def two_paths(made: WasiKit, name: str, path: str, to: str) -> int:
    """Call `path_rename`, or `path_link` without following."""
    before = (0,) if name == "path_link" else ()
    return made.call(name, ROOT, *before, *made.path(path), ROOT, *made.path(to, PATH_TOO_AT))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.txt", b"shared"),
        ("./lib//b.txt", b"inside"),
        ("lib/../a.txt", b"shared"),
        ("box/up", b"own"),
        ("box/../box/./up", b"own"),
        ("..", -errno.ENOTCAPABLE),
        ("../a.txt", -errno.ENOTCAPABLE),
        ("lib/../../a.txt", -errno.ENOTCAPABLE),
        ("/a.txt", -errno.ENOTCAPABLE),
        ("out", -errno.ENOTCAPABLE),
        ("loop1", -errno.ELOOP),
        ("loop1/x", -errno.ELOOP),
        ("", -errno.ENOENT),
        ("nothing", -errno.ENOENT),
        ("nothing/a.txt", -errno.ENOENT),
        ("a.txt/", -errno.ENOTDIR),
        ("a.txt/.", -errno.ENOTDIR),
        ("a.txt/x", -errno.ENOTDIR),
        ("x" * 256, -errno.ENAMETOOLONG),
        ("x/" * 2049, -errno.ENAMETOOLONG),
        ("a.txt\0", -errno.EINVAL),
    ],
)
def test_where_a_path_leads(path: str, found: bytes | int) -> None:
    """Goal: a path leads where it says, and never out of its folder. Method: tricks, with the file or the errno."""
    made = kit()
    number = made.open(path)
    assert (made.read(number) if number > 0 else number) == found


def test_a_folder_is_a_jail() -> None:
    """Goal: a descriptor of a folder gives no way out. Method: `..`, and a link that points out, from a subfolder."""
    made = kit()
    box = made.open("box", DIRECTORY)
    assert made.open("../own.txt", folder=box) == -errno.ENOTCAPABLE
    assert made.open("up", folder=box) == -errno.ENOTCAPABLE
    assert made.open("up", folder=box, follow=False) == -errno.ELOOP
    assert made.on_path("path_create_directory", "../new", folder=box) == errno.ENOTCAPABLE


def test_the_programs_files_cannot_be_changed() -> None:
    """Goal: what came with the deploy stays as it is. Method: each way to change it; then read it."""
    made = kit()
    assert made.open("a.txt", CREATE) == -errno.EROFS  # with the right to write
    assert made.open("a.txt", TRUNCATE) == -errno.EROFS
    assert made.on_path("path_unlink_file", "a.txt") == errno.EROFS
    assert made.on_path("path_remove_directory", "lib") in (errno.EROFS, errno.ENOTEMPTY)
    assert two_paths(made, "path_rename", "a.txt", "c.txt") == errno.EROFS
    assert two_paths(made, "path_rename", "own.txt", "a.txt") == errno.EROFS
    assert two_paths(made, "path_rename", "lib", "lib2") == errno.EROFS
    assert made.on_path("path_filestat_set_times", "a.txt", 0, after=(0, 0, 2)) == errno.EROFS
    number = made.open("a.txt")
    assert made.call("fd_filestat_set_size", number, 0) == errno.EROFS
    assert made.write(number, b"x") == -errno.EBADF
    assert two_paths(made, "path_link", "a.txt", "c.txt") == 0
    assert made.open("c.txt", CREATE) == -errno.EROFS
    assert made.on_path("path_unlink_file", "c.txt") == 0
    assert made.read(made.open("a.txt")) == b"shared"
    made.make("lib/new.txt", b"new")  # beside them there is room
    assert made.names(made.open("lib", DIRECTORY)) == ["b.txt", "new.txt"]


def test_names_are_made_moved_and_removed() -> None:
    """Goal: the calls about names do what POSIX says. Method: a row of calls with their errnos."""
    made = kit()
    assert made.on_path("path_create_directory", "box") == errno.EEXIST
    assert made.on_path("path_create_directory", "nothing/x") == errno.ENOENT
    assert made.open("own.txt", CREATE | EXCLUSIVE) == -errno.EEXIST
    assert made.open("own.txt", DIRECTORY) == -errno.ENOTDIR
    assert made.open("box", CREATE) == -errno.EISDIR
    assert made.on_path("path_unlink_file", "box") == errno.EISDIR
    assert made.on_path("path_remove_directory", "own.txt") == errno.ENOTDIR
    assert made.on_path("path_remove_directory", "box") == errno.ENOTEMPTY
    assert made.on_path("path_remove_directory", ".") == errno.EINVAL
    assert two_paths(made, "path_rename", "box", "box/inside") == errno.EINVAL
    assert two_paths(made, "path_rename", "box", "own.txt") == errno.ENOTDIR
    assert two_paths(made, "path_rename", "own.txt", "box") == errno.EISDIR
    assert two_paths(made, "path_rename", "own.txt", "new.txt") == 0
    assert two_paths(made, "path_rename", "box", "chest") == 0
    assert two_paths(made, "path_link", "chest", "again") == errno.EPERM
    assert two_paths(made, "path_link", "new.txt", "again") == 0
    assert made.on_path("path_unlink_file", "new.txt") == 0
    assert made.read(made.open("again")) == b"own"
    assert symlink(made, "/etc/passwd", "evil") == errno.ENOTCAPABLE
    assert made.open("tmp/own.txt", CREATE | EXCLUSIVE) >= 0
    assert made.names() == ["dev", "tmp", "a.txt", "lib", "loop1", "loop2", "out", "chest", "again"]
    assert made.on_path("path_readlink", "loop1", after=(DATA_AT, 3, OUT_AT)) == 0
    assert bytes(made.guest.memory[DATA_AT : DATA_AT + made.word()]) == b"loo"
    assert made.on_path("path_readlink", "again", after=(DATA_AT, 3, OUT_AT)) == errno.EINVAL


def test_a_removed_file_lives_while_it_is_open() -> None:
    """Goal: as in POSIX, and its bytes come back at the close. Method: fill, remove, read, close, fill again."""
    made = WasiKit(pages=16, memory_bytes=(1 << 20) + 70_000)
    number = made.open("f", CREATE)
    assert made.write(number, bytes(60_000)) == 60_000
    assert made.on_path("path_unlink_file", "f") == 0
    assert made.call("fd_filestat_get", number, OUT_AT) == 0
    assert (made.long(OUT_AT + 24), made.long(OUT_AT + 32)) == (0, 60_000)  # no name, its size
    assert made.write(made.open("g", CREATE), bytes(60_000)) < 60_000
    assert made.call("fd_close", number) == 0
    assert made.write(made.open("h", CREATE), bytes(50_000)) == 50_000


def test_a_folder_is_read_in_parts() -> None:
    """Goal: every name once, whatever the buffer, while names go. Method: small buffers, and one removed in between."""
    made = WasiKit({f"s{index}": b"" for index in range(20)})
    for index in range(20):
        made.make(f"own{index}", b"")
    expected = [*sorted(f"s{index}" for index in range(20)), *[f"own{index}" for index in range(20)]]
    for size in (32, 100, 4000):
        assert [name for name in made.names(size=size) if name not in ("dev", "tmp")] == expected
    assert made.call("fd_readdir", ROOT, DATA_AT, 4000, 0, OUT_AT) == 0
    cookie = struct.unpack_from("<Q", made.guest.memory, DATA_AT + 24 * 2 + 3)[0]
    assert made.on_path("path_unlink_file", "own0") == 0
    assert made.call("fd_readdir", ROOT, DATA_AT, 4000, cookie, OUT_AT) == 0
    assert made.word() > 0
    assert made.call("fd_readdir", ROOT, DATA_AT, 4000, (1 << 64) - 1, OUT_AT) == 0
    assert made.word() == 0


def test_positions_and_holes() -> None:
    """Goal: seeking, holes, appending and sizes. Method: a row of calls and the bytes that come of it."""
    made = WasiKit()
    number = made.open("f", CREATE)
    made.write(number, b"abc")
    assert made.call("fd_seek", number, (1 << 64) - 4, 1, OUT_AT) == errno.EINVAL
    assert made.call("fd_seek", number, 5, 0, OUT_AT) == 0
    made.write(number, b"x")
    assert made.call("fd_seek", number, (1 << 64) - 1, 2, OUT_AT) == 0
    assert made.long() == 5
    assert made.read(number) == b"x"
    assert made.call("fd_seek", number, 0, 0, OUT_AT) == 0
    assert made.read(number) == b"abc\0\0x"
    assert made.call("fd_fdstat_set_flags", number, 1) == 0
    assert made.call("fd_seek", number, 0, 0, OUT_AT) == 0
    made.write(number, b"end")
    assert made.call("fd_filestat_set_size", number, 7) == 0
    assert made.call("fd_allocate", number, 4, 5) == 0
    assert made.read(made.open("f")) == b"abc\0\0xe\0\0"
    assert made.call("fd_seek", ROOT, 0, 0, OUT_AT) == errno.EBADF
    assert made.call("fd_seek", 0, 0, 0, OUT_AT) == errno.ESPIPE


def test_files_are_bounded_by_the_memory_of_the_task() -> None:
    """Goal: files and guest memory together stay within memory_bytes. Method: writes, holes, names, until ENOSPC."""
    made = WasiKit(pages=16, memory_bytes=(1 << 20) + 100_000)
    number = made.open("f", CREATE)
    assert made.call("fd_seek", number, 1 << 40, 0, OUT_AT) == 0
    assert made.write(number, b"x") == -errno.ENOSPC
    assert made.call("fd_filestat_set_size", number, 1 << 40) == errno.ENOSPC
    assert made.call("fd_allocate", number, (1 << 63) - 2, 1) == errno.ENOSPC
    assert made.call("fd_allocate", number, (1 << 64) - 1, 1) == errno.EFBIG
    folders = 0
    while made.on_path("path_create_directory", f"d{folders}") == 0:
        folders += 1
    assert 50 < folders < 100
    assert symlink(made, "x" * 4000, "l") == errno.ENOSPC


def test_costs_bound_what_the_host_does() -> None:
    """Goal: the fuel of a call grows with its work. Method: calls of two sizes, and one without enough fuel."""
    made = WasiKit({f"f{index}": b"" for index in range(500)}, fuel=1 << 40)

    def cost(name: str, *values: int) -> int:
        before = made.guest.fuel
        made.call(name, *values)
        return before - made.guest.fuel

    assert cost("random_get", DATA_AT, 50_000) == cost("random_get", DATA_AT, 0) + 50_000
    assert cost("fd_readdir", ROOT, DATA_AT, 100, 500, OUT_AT) >= 500 * 100
    number = made.open("big", CREATE)
    assert cost("fd_filestat_set_size", number, 1 << 20) > 1 << 20
    made.guest.fuel = 10_000
    with pytest.raises(FuelSpent):
        made.call("random_get", DATA_AT, 20_000)
    assert made.guest.memory[DATA_AT] == 0 or made.guest.fuel <= 0


def test_descriptors_are_bounded_and_reused() -> None:
    """Goal: at most 1,024 are open, and the lowest free number comes next. Method: open until refused, close some."""
    made = WasiKit({"a": b"shared"})
    numbers = []
    while (number := made.open("a")) > 0:
        numbers.append(number)
    assert number == -errno.EMFILE
    assert numbers == list(range(4, 1024))
    for closed in (100, 7, 50):
        assert made.call("fd_close", closed) == 0
        assert made.call("fd_close", closed) == errno.EBADF
    assert [made.open("a"), made.open("a")] == [7, 50]
    assert made.call("fd_renumber", 50, 7) == 0
    assert made.call("fd_renumber", 50, 7) == errno.EBADF
    assert made.call("fd_renumber", 7, 50) == errno.EBADF
    assert made.call("fd_renumber", 7, 7) == 0
    assert made.read(7) == b"shared"


def test_a_call_has_bounds() -> None:
    """Goal: overlapping buffers do not multiply the memory of a guest. Method: too many buffers, too many bytes."""
    made = WasiKit(pages=32, memory_bytes=64 << 20)
    number = made.open("f", CREATE)
    for index in range(1024):
        struct.pack_into("<II", made.guest.memory, DATA_AT + 8 * index, 0, 1 << 20)
    assert made.call("fd_write", number, DATA_AT, 1025, OUT_AT) == errno.EINVAL
    assert made.call("fd_write", number, DATA_AT, 1024, OUT_AT) == 0
    assert made.word() == 16 << 20
    assert made.call("fd_read", made.open("dev/urandom"), DATA_AT, 1024, OUT_AT) == 0
    assert made.call("poll_oneoff", DATA_AT, DATA_AT, 4097, OUT_AT) == errno.EINVAL
