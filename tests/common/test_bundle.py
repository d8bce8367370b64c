"""common/bundle.py: what a bundle may hold, its one form as bytes, and what other bytes say."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.common import limits
from rota.common.bundle import Bundle, BundleFile, decode_bundle, encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError

PROGRAM = digest(b"a program")
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/\x7f"), min_size=1).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
variables = texts.filter(lambda name: name and "=" not in name)


def test_a_bundle_comes_back_from_its_bytes() -> None:
    """Goal: nothing of a bundle is lost. Method: one with all fields, made again in another order."""
    files = {"agent.py": b"def agent(ctx): ...", "data/a.bin": bytes(300), "data-b": b""}
    bundle = new_bundle(PROGRAM, entry="agent.py", args=("-v", "ü"), env={"B": "2", "A": "1"}, files=files)
    assert decode_bundle(encode_bundle(bundle)) == bundle
    assert bundle.env == (("A", "1"), ("B", "2"))
    assert [path for path, _ in bundle.files] == ["agent.py", "data-b", "data/a.bin"]
    turned = dict(reversed(files.items()))
    assert new_bundle(PROGRAM, entry="agent.py", args=("-v", "ü"), env={"A": "1", "B": "2"}, files=turned) == bundle


@given(st.lists(texts), st.dictionaries(variables, texts), st.dictionaries(paths, st.binary(max_size=40)))
def test_any_valid_values_make_the_same_bundle_again(args: list[str], env: dict[str, str], files: dict[str, bytes]):
    """Goal: one value, one form. Method: arbitrary arguments, variables and files, those that are also folders out."""
    kept = {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)}
    bundle = new_bundle(PROGRAM, args=args, env=env, files=kept)
    data = encode_bundle(bundle)
    assert decode_bundle(data) == bundle
    assert encode_bundle(decode_bundle(data)) == data


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"module": b"short"}, "module", "not a digest of 32 bytes"),
        ({"entry": "b.py"}, "entry", "'b.py' is none of its files"),
        ({"args": ("a\0b",)}, "args", "zero byte"),
        ({"args": ("\ud800",)}, "args", "cannot be written as UTF-8"),
        ({"args": (1,)}, "args", "1 is not text"),
        ({"args": ("x" * (limits.BUNDLE_TEXT_BYTES_MAX + 1),)}, "args", f"at most {limits.BUNDLE_TEXTS_MAX}"),
        ({"args": ("",) * (limits.BUNDLE_TEXTS_MAX + 1)}, "args", f"at most {limits.BUNDLE_TEXTS_MAX}"),
        ({"env": (("A=B", "1"),)}, "env", "'A=B' is no name"),
        ({"env": (("", "1"),)}, "env", "is no name"),
        ({"env": (("B", "1"), ("A", "2"))}, "env", "'A' stands behind 'B'"),
        ({"env": (("A", "1"), ("A", "2"))}, "env", "'A' is there twice"),
        ({"files": (BundleFile("/a", b""),)}, "files", "'/a' is no path"),
        ({"files": (BundleFile("a/../b", b""),)}, "files", "is no path"),
        ({"files": (BundleFile("./a", b""),)}, "files", "is no path"),
        ({"files": (BundleFile("a//b", b""),)}, "files", "is no path"),
        ({"files": (BundleFile("a\nb", b""),)}, "files", "is no path"),
        ({"files": (BundleFile("", b""),)}, "files", "0 bytes"),
        ({"files": (BundleFile("a" * 513, b""),)}, "files", "513 bytes"),
        ({"files": (BundleFile("/".join("a" * 33), b""),)}, "files", "33 parts"),
        ({"files": (BundleFile("b", b""), BundleFile("a", b""))}, "files", "'a' stands behind 'b'"),
        ({"files": (BundleFile("a", b""), BundleFile("a", b""))}, "files", "'a' is there twice"),
        ({"files": (BundleFile("a", b""), BundleFile("a/b", b""))}, "files", "file and a folder"),
        ({"files": (BundleFile("a", "text"),)}, "files", "is not bytes"),
        ({"files": tuple(BundleFile(f"{one:04}", b"") for one in range(4_097))}, "files", "4097 files"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_names_the_field(change: dict[str, Any], field: str, said: str) -> None:
    """Goal: a maker learns what to change, and a decoder trusts nobody. Method: one breach each, made and as bytes."""
    broken = Bundle(PROGRAM, "", (), (), ())._replace(**change)
    with pytest.raises(CodeError, match=said.replace("(", r"\(")) as found:
        encode_bundle(broken)
    assert found.value.fields["field"] == field
    try:
        data = msgpack.packb((1, *broken))
    except (TypeError, ValueError):
        return
    with pytest.raises(CodeError):
        decode_bundle(data)


def test_too_large_a_bundle_is_refused() -> None:
    """Goal: a bundle fits into one message. Method: one byte over the bound, made and decoded."""
    bundle = new_bundle(PROGRAM, files={"a": bytes(limits.MODULE_BYTES_MAX)})
    for attempt in (lambda: encode_bundle(bundle), lambda: decode_bundle(bytes(limits.MODULE_BYTES_MAX + 1))):
        with pytest.raises(CodeError, match="leave files out"):
            attempt()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "this is no bundle"),
        (b"\0asm\x01\0\0\0", "this is no bundle"),
        (msgpack.packb((1, PROGRAM, "", [], [])), "this is no bundle"),
        (msgpack.packb((2, PROGRAM, "", [], [], [])), "version 2, this Rota reads version 1"),
        (msgpack.packb((1, PROGRAM, "", [], [], [])) + b"\0", "this is no bundle"),
        (b"\x96\x01\xc4\x20" + PROGRAM + b"\xa0\xdc\x00\x00\x90\x90", "canonical form"),
        (b"\x96\x01\xc4\x20" + PROGRAM + b"\xa0\x90\x90\xa0", "field files: no array"),
        (b"\x96\x01\xc4\x20" + PROGRAM + b"\xa0\x91\x01\x90\x90", "field args: Expected `str`"),
        (b"\x96\x01\xc4\x20" + PROGRAM + b"\xa0\x90\x90\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20), "array of 1048576"),
        (b"\x91" * 5_000, "this is no bundle"),
    ],
    ids=range(10),
)
def test_other_bytes_are_no_bundle(data: bytes, said: str) -> None:
    """Goal: any bytes give a bundle or a text that says why not. Method: one of each kind of damage."""
    with pytest.raises(CodeError, match=said):
        decode_bundle(data)


@given(st.binary(max_size=80), st.integers(0, 79), st.integers(0, 255))
def test_damaged_bytes_raise_nothing_else(data: bytes, place: int, byte: int) -> None:
    """Goal: no other exception. Method: arbitrary bytes, and one changed byte of a bundle."""
    good = bytearray(encode_bundle(new_bundle(PROGRAM, entry="a", args=("x",), env={"A": ""}, files={"a": b"1"})))
    good[place % len(good)] = byte
    for bad in (data, bytes(good)):
        with contextlib.suppress(CodeError):
            assert encode_bundle(decode_bundle(bad)) == bad
