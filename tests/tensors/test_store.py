"""tensors/store.py and format.py: real files, read back, damaged, collected, and written by many."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rota.common.errors import TensorError
from rota.common.limits import TENSOR_BYTES_MAX, TENSOR_RANK_MAX
from rota.common.work import TensorRef
from rota.tensors.format import DTYPES, check_tensor, dtype_name, npy_header, numpy_dtype, tensor_digest
from rota.tensors.store import TensorStore

ROWS = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
EXTENSIONS = tuple(name for name in DTYPES if name.startswith(("bfloat", "float8")))


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "tensors")


def path_of(store: TensorStore, ref: TensorRef) -> Path:
    name = ref.digest.hex()
    return store.root / name[:2] / name[2:4] / f"{name}.npy"


def files_of(store: TensorStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*.npy"))


def set_age(path: Path, age_s: float) -> None:
    moment = time.time() - age_s
    os.utime(path, (moment, moment))


# --- format and digest ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "digest"),
    [
        ("float32", (2, 3), ROWS.tobytes(), "7a2fe3cf2a0a69074d2fe552e8a081c1a6cfe3ede0c87916cb9ba3bb42c38c54"),
        ("int64", (), (7).to_bytes(8, "little"), "3474c0cce37d7388554ffcb9d68f032fb04d04b8690ce2ba5d03930737a9ca36"),
        ("bool", (0, 4), b"", "d73710aed0431c9fddb8213737e6381cd697649aea861a018899caad2582460d"),
        ("bfloat16", (1,), b"\x80\x3f", "c6548d687a247d196a818d4fd546928f548f1493c13c6b69c6018e292c189916"),
    ],
)
def test_digest_is_fixed(dtype: str, shape: tuple[int, ...], data: bytes, digest: str) -> None:
    """Goal: no change of the format goes unseen, and docs/TENSORS.md can be followed. Method: digests written down."""
    assert tensor_digest(dtype, shape, data).hex() == digest


def test_header_bytes() -> None:
    """Goal: the header of docs/TENSORS.md, byte by byte. Method: two of them written down."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    assert npy_header("float32", (2, 3)) == b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117) + b"\n"
    text = b"{'descr': [('bfloat16', '|V2')], 'fortran_order': False, 'shape': (5,), }"
    assert npy_header("bfloat16", (5,)) == b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117) + b"\n"


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 4), max_size=4).map(tuple), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_put_and_open(store: TensorStore, dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    """Goal: bits come back as they were, aligned, under the BLAKE3 of the file. Method: any dtype, shape and bits."""
    size = check_tensor(dtype, shape)
    raw = data.draw(st.binary(min_size=size, max_size=size))
    array = numpy.frombuffer(raw, numpy.uint8).view(numpy_dtype(dtype)).reshape(shape)
    ref = store.put(array, durable=False)
    found = store.open(ref, verify=True)
    assert (ref.dtype, ref.shape) == (dtype, shape) == (found.dtype.name, found.shape)
    assert found.tobytes() == raw
    assert found.ctypes.data % 64 == 0
    assert not found.flags.writeable
    content = path_of(store, ref).read_bytes()
    assert blake3(content).digest() == ref.digest == tensor_digest(dtype, shape, raw)
    loaded = numpy.load(path_of(store, ref))
    assert loaded.tobytes() == raw
    if dtype not in EXTENSIONS:
        assert (loaded.dtype, loaded.shape) == (array.dtype, shape)


def test_every_part_is_in_the_digest() -> None:
    """Goal: same bytes, other meaning, other name. Method: one buffer as every dtype and several shapes."""
    data = bytes(48)
    digests = {
        tensor_digest(dtype, shape, data)
        for dtype in DTYPES
        for items in [48 // numpy_dtype(dtype).itemsize]
        for shape in [(items,), (1, items), (items, 1)]
    }
    assert len(digests) == 3 * len(DTYPES)


@pytest.mark.parametrize("order", ["transposed", "strided", "reversed", "fortran"])
def test_any_layout_is_stored_in_row_major_order(store: TensorStore, order: str) -> None:
    """Goal: what counts is the value. Method: views with unusual strides against their contiguous copies."""
    base = numpy.arange(24, dtype=numpy.int16).reshape(4, 6)
    views = {"transposed": base.T, "strided": base[::2, 1::3], "reversed": base[::-1]}
    view = views.get(order, numpy.asfortranarray(base))
    assert store.put(view) == store.put(numpy.ascontiguousarray(view))
    numpy.testing.assert_array_equal(store.open(store.put(view)), view)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numpy.array(["a"]), "cannot be stored: use one of bool, int8"),
        (numpy.array([None]), "cannot be stored"),
        (numpy.array(["2026-11-22"], "datetime64[D]"), "cannot be stored"),
        (numpy.zeros(2, [("a", "<i4")]), "cannot be stored"),
        (numpy.zeros(2, ">f4"), "big-endian.*newbyteorder"),
    ],
)
def test_put_refuses_other_dtypes(store: TensorStore, array: NDArray[Any], message: str) -> None:
    """Goal: a typed error with the remedy. Method: one array of each wrong sort."""
    with pytest.raises(TensorError, match=message):
        store.put(array)
    assert files_of(store) == []


@pytest.mark.parametrize("dtype", ["float33", "V2", object, ">i4", "str", 3])
def test_create_refuses_other_dtypes(store: TensorStore, dtype: Any) -> None:
    with pytest.raises(TensorError):
        store.create(dtype, (1,))


def test_dtype_names() -> None:
    """Goal: one name for a type, however it is written. Method: the usual spellings."""
    assert (
        dtype_name(numpy.float32)
        == dtype_name("<f4")
        == dtype_name("float32")
        == dtype_name(numpy.dtype("f"))
        == "float32"
    )
    assert dtype_name(ml_dtypes.bfloat16) == dtype_name("bfloat16") == "bfloat16"
    assert dtype_name(float) == "float64"


# --- create, fill, seal ---------------------------------------------------------------------------------------------


def test_seal_names_what_was_filled(store: TensorStore) -> None:
    """Goal: create, fill, seal gives what put gives. Method: both, and look at the file."""
    with store.create("float32", (2, 3)) as draft:
        assert draft.array.ctypes.data % 64 == 0
        assert not draft.array.any()
        draft.array[:] = ROWS
        ref = draft.seal()
        assert not draft.array.flags.writeable
    assert files_of(store) == [path_of(store, ref)]
    assert stat.S_IMODE(path_of(store, ref).stat().st_mode) == 0o444
    assert store.put(ROWS) == ref
    numpy.testing.assert_array_equal(store.open(ref), ROWS)


def test_sealed_file_stays_the_same_file(store: TensorStore) -> None:
    """Goal: a sealed file is never replaced. Method: the inode after the same content came twice more."""
    ref = store.put(ROWS)
    before = path_of(store, ref).stat()
    store.put(ROWS.copy())
    with store.create("float32", (2, 3)) as draft:
        draft.array[:] = ROWS
        assert draft.seal() == ref
    assert path_of(store, ref).stat().st_ino == before.st_ino
    assert files_of(store) == [path_of(store, ref)]


def test_abandoned_draft_is_removed(store: TensorStore) -> None:
    """Goal: nothing is left of what was not sealed. Method: leave the block with an error, and without one."""
    with pytest.raises(KeyError), store.create("uint8", (1000,)):
        raise KeyError(store.stats().drafts)
    with store.create("uint8", (1000,)):
        pass
    assert files_of(store) == []


def test_open_copies_nothing(store: TensorStore) -> None:
    """Goal: readers map the file. Method: the buffer is a map of that file; private memory does not grow."""
    count = (16 << 20) // 8
    with store.create("float64", (count,)) as draft:
        draft.array[:] = 1.0
        ref = draft.seal(durable=False)
    del draft
    before = _private_bytes()
    array = store.open(ref)
    assert float(array.sum()) == count
    assert isinstance(array.base, mmap.mmap)
    part = array[100:200]
    assert numpy.shares_memory(part, array)
    if sys.platform == "linux":
        assert str(path_of(store, ref)) in Path("/proc/self/maps").read_text()
        assert _private_bytes() - before < 4 << 20
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def _private_bytes() -> int:
    if sys.platform != "linux":
        return 0
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


# --- what is refused and what is damaged ------------------------------------------------------------------------------


def test_missing_tensor(store: TensorStore) -> None:
    """Goal: digest and remedy in the message, on opening and on touching. Method: a reference to nothing."""
    ref = TensorRef(bytes(range(32)), "int8", (3,))
    for use in (store.open, store.touch):
        with pytest.raises(TensorError, match=f"{ref.digest.hex()}.*store it again") as caught:
            use(ref)
        assert caught.value.fields["digest"] == ref.digest.hex()


@pytest.mark.parametrize("keep", [0, 1, 64, 127, 128, 151, -1, None])
def test_torn_file(store: TensorStore, keep: int | None) -> None:
    """Goal: a file of the wrong size is never mapped, and storing it again heals it. Method: cut, and append a byte."""
    ref = store.put(ROWS)
    path = path_of(store, ref)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content + b"x" if keep is None else content[:keep])
    with pytest.raises(TensorError, match=rf"{ref.digest.hex()}.*damaged.*needs {len(content)}; delete"):
        store.open(ref)
    assert store.put(ROWS) == ref
    numpy.testing.assert_array_equal(store.open(ref, verify=True), ROWS)


@pytest.mark.parametrize("offset", range(0, 152, 8))
def test_changed_byte(store: TensorStore, offset: int) -> None:
    """Goal: a changed header is always seen, changed data when asked for. Method: flip single bits."""
    ref = store.put(ROWS)
    path = path_of(store, ref)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(TensorError, match=r"damaged: its (header|content)"):
        store.open(ref, verify=True)
    if offset >= 128:
        assert store.open(ref).tobytes() == bytes(content[128:])


def test_reference_with_another_dtype_or_shape(store: TensorStore) -> None:
    """Goal: a reference is believed as a whole or not at all. Method: the right digest with wrong words."""
    ref = store.put(ROWS)
    for wrong in (ref._replace(dtype="int32"), ref._replace(shape=(3, 2)), ref._replace(shape=(6,))):
        with pytest.raises(TensorError, match="header is another tensor's"):
            store.open(wrong)
    with pytest.raises(TensorError, match=r"needs 152|needs 132"):
        store.open(ref._replace(shape=(1,)))


@pytest.mark.parametrize(
    "wrong",
    [
        TensorRef(b"", "int8", (1,)),
        TensorRef(bytes(31), "int8", (1,)),
        TensorRef("../../etc/passwd", "int8", (1,)),  # type: ignore[arg-type]
        TensorRef(bytes(32), "float33", (1,)),
        TensorRef(bytes(32), ["int8"], (1,)),  # type: ignore[arg-type]
        TensorRef(bytes(32), "int8", (-1,)),
        TensorRef(bytes(32), "int8", (True,)),
        TensorRef(bytes(32), "int8", (1.0,)),  # type: ignore[arg-type]
        TensorRef(bytes(32), "int8", [1]),  # type: ignore[arg-type]
        TensorRef(bytes(32), "int8", (1,) * (TENSOR_RANK_MAX + 1)),
        TensorRef(bytes(32), "int16", (TENSOR_BYTES_MAX,)),
        TensorRef(bytes(32), "int8", (0, TENSOR_BYTES_MAX + 1)),
    ],
)
def test_impossible_reference(store: TensorStore, wrong: TensorRef) -> None:
    """Goal: a reference from the wire cannot leave the folder or ask for the impossible. Method: one of each sort."""
    with pytest.raises(TensorError):
        store.open(wrong)


def test_link_in_place_of_a_tensor(store: TensorStore, tmp_path: Path) -> None:
    """Goal: a link is not followed out of the folder, a folder is no tensor. Method: put each in place of the file."""
    ref = store.put(ROWS)
    path = path_of(store, ref)
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(TensorError, match="damaged: it cannot be opened"):
        store.open(ref)
    path.unlink()
    path.mkdir()
    with pytest.raises(TensorError, match="damaged"):
        store.open(ref)


def test_limits(tmp_path: Path) -> None:
    """Goal: both bounds are errors that name the sizes. Method: small bounds."""
    store = TensorStore(tmp_path / "tensors", tensor_bytes_max=1000, store_bytes_max=2000)
    with pytest.raises(TensorError, match="has 1001 bytes and this store takes at most 1000"):
        store.create("uint8", (1001,))
    first = store.put(numpy.zeros(900, numpy.uint8))
    with pytest.raises(TensorError, match=r"holds 1028 of 2000 bytes and 1128 more do not fit"):
        store.put(numpy.ones(1000, numpy.uint8))
    other = TensorStore(tmp_path / "tensors", store_bytes_max=2000)
    with pytest.raises(TensorError, match="holds 1028 of 2000"):
        other.create("uint8", (1000,))
    set_age(path_of(store, first), 100)
    assert store.collect(set(), time.time(), 10).removed == 1
    store.put(numpy.ones(1000, numpy.uint8))


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy
from rota.common.errors import TensorError
from rota.tensors.store import TensorStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = TensorStore(Path(sys.argv[1]))
for use in (lambda: store.create("uint8", (200_000,)), lambda: store.put(numpy.zeros(200_000, numpy.uint8))):
    try:
        use()
    except TensorError as error:
        assert error.fields["needed_bytes"] == 200_128 and "200128 bytes are needed" in str(error), error
    else:
        raise SystemExit("no error")
store.put(numpy.zeros(1_000, numpy.uint8))
assert store.stats() == (1, 1_128, 0, 0), store.stats()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_full_disk(tmp_path: Path) -> None:
    """Goal: no room is an error before the filling, and leaves nothing. Method: a file size limit, in a process."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "tensors")], check=True, timeout=60)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TensorError, match="cannot make the tensor store"):
        TensorStore(tmp_path / "file" / "tensors")


NO_EXTENSION = """
import sys
sys.modules["ml_dtypes"] = None
from rota.common.errors import TensorError
from rota.tensors.format import numpy_dtype, tensor_digest
tensor_digest("bfloat16", (1,), b"ab")
try:
    numpy_dtype("bfloat16")
except TensorError as error:
    assert "pip install ml_dtypes" in str(error)
else:
    raise SystemExit("no error")
"""


def test_extension_types_need_their_package_only_as_arrays() -> None:
    """Goal: the broker can hold such references without ml_dtypes. Method: a process in which it cannot be imported."""
    subprocess.run([sys.executable, "-c", NO_EXTENSION], check=True, timeout=60)


# --- many at a time, leases, collection -------------------------------------------------------------------------------


def _seal_the_same(root: str) -> TensorRef:
    store = TensorStore(Path(root))
    for index in range(20):
        with store.create("int64", (1000,)) as draft:
            draft.array[:] = index
            ref = draft.seal(durable=False)
        assert int(store.open(ref, verify=True)[999]) == index
    return ref


@pytest.mark.processes
def test_processes_that_seal_the_same_content(store: TensorStore) -> None:
    """Goal: same content, one file, in any order. Method: three processes seal the same twenty tensors."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        refs = pool.map(_seal_the_same, [str(store.root)] * 3, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(refs)) == 1
    assert store.stats() == (20, 20 * (128 + 8000), 0, 0)


def test_collect_keeps_what_is_referenced_or_leased(store: TensorStore) -> None:
    """Goal: only unreferenced tensors without a lease are removed. Method: one tensor per case, ages set by hand."""
    refs = [store.put(numpy.full(10, index)) for index in range(4)]
    referenced, leased, touched, forgotten = refs
    for ref in (referenced, touched, forgotten):
        set_age(path_of(store, ref), 1000)
    store.touch(touched)
    (store.root / "ab").mkdir(exist_ok=True)
    stranger = store.root / "ab" / "notes.npy"
    stranger.write_text("not ours")
    set_age(stranger, 1000)
    report = store.collect({referenced.digest}, time.time(), 600)
    assert report == (1, 128 + 80, 0)
    assert [path_of(store, ref).exists() for ref in refs] == [True, True, True, False]
    assert stranger.exists()
    assert store.collect(lambda digest: digest == leased.digest, time.time() + 10_000, 600).removed == 2
    assert [path_of(store, ref).exists() for ref in refs] == [False, True, False, False]


def test_put_and_seal_renew_the_lease(store: TensorStore) -> None:
    """Goal: storing an existing tensor renews its lease. Method: an old file, stored again."""
    ref = store.put(ROWS)
    set_age(path_of(store, ref), 1000)
    store.put(ROWS)
    assert store.collect(set(), time.time(), 600).removed == 0
    set_age(path_of(store, ref), 1000)
    with store.create("float32", (2, 3)) as draft:
        draft.array[:] = ROWS
        draft.seal()
    assert store.collect(set(), time.time(), 600).removed == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a mapped file")
def test_mapped_tensor_outlives_its_name(store: TensorStore) -> None:
    """Goal: a collection never takes a tensor from under a reader. Method: map, collect, read."""
    ref = store.put(ROWS)
    array = store.open(ref)
    assert store.collect(set(), time.time() + 1000, 600).removed == 1
    numpy.testing.assert_array_equal(array, ROWS)
    with pytest.raises(TensorError, match="not in the store"):
        store.open(ref)


DIES_WITH_A_DRAFT = """
import os, sys
from pathlib import Path
from rota.tensors.store import TensorStore
draft = TensorStore(Path(sys.argv[1])).create("uint8", (1000,))
os._exit(3)
"""


@pytest.mark.processes
def test_drafts_of_the_dead_are_collected(store: TensorStore) -> None:
    """Goal: a writer that died leaves nothing for long, a slow one is left alone. Method: one of each, equally old."""
    command = [sys.executable, "-c", DIES_WITH_A_DRAFT, str(store.root)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 3
    assert store.stats() == (0, 0, 1, 1128)
    assert store.collect(set(), time.time(), 600).removed == 0
    with store.create("uint8", (7,)) as draft:
        for path in files_of(store):
            set_age(path, 1000)
        assert store.collect(set(), time.time(), 600) == (1, 1128, 0)
        ref = draft.seal()
    assert store.open(ref).shape == (7,)


def test_collect_against_put(store: TensorStore) -> None:
    """Goal: what `put` returned is there, whatever a collection did meanwhile. Method: a thread that collects."""
    stop = threading.Event()
    removed = 0

    def collect_always() -> None:
        nonlocal removed
        while not stop.is_set():
            removed += store.collect(set(), time.time(), 60).removed

    collector = threading.Thread(target=collect_always)
    collector.start()
    try:
        for _ in range(400):
            ref = store.put(ROWS, durable=False)
            store.open(ref)
            set_age(path_of(store, ref), 1000)  # from here on it may be removed at any moment
    finally:
        stop.set()
        collector.join()
    assert removed > 0


def test_stats_and_empty_store(store: TensorStore) -> None:
    """Goal: counts that `rota status` can show. Method: before, during and after."""
    assert store.stats() == (0, 0, 0, 0)
    assert store.collect(set(), time.time(), 0) == (0, 0, 0)
    store.put(numpy.zeros(1, numpy.uint8))
    with store.create("uint8", (2,)):
        assert store.stats() == (1, 129, 1, 130)


def test_sizes() -> None:
    """Goal: the size of a tensor is what its data has. Method: numpy's own figure."""
    for dtype in DTYPES:
        assert check_tensor(dtype, (2, 0, 3)) == 0
        assert check_tensor(dtype, (2, 3)) == numpy.zeros((2, 3), numpy_dtype(dtype)).nbytes
    assert check_tensor("int8", ()) == math.prod(()) == 1
