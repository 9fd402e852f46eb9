"""Tarballs that somebody made to hurt: refused in one line, at no cost."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.host.environments.archives import BadTarball, copy_image
from daemons.host.environments.importing import warning
from tests.bench.tarballs import Pieces
from tests.unit.test_tarballs import copied, new_form, old_form, refused, sha, tar


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def record(key: str, value: str) -> bytes:
    """A line of a pax header; its length counts itself."""
    rest, length = len(f" {key}={value}\n".encode()), 0
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return f"{length} {key}={value}\n".encode()


def pax(records: Mapping[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    data = b"".join(record(key, value) for key, value in records.items())
    return header(kind, len(data)) + data + bytes(-len(data) % 512)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}


def endless(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    yield from repeat((piece * (2**20 // len(piece) + 1))[: 2**20], 256)


@pytest.mark.parametrize(
    "first",
    [header(kind, 250 * 2**20) for kind in (b"L", b"K", b"x", b"g", b"X")],
    ids=["name", "link", "pax", "global pax", "solaris pax"],
)
def test_memory_does_not_grow_with_a_header(first: bytes) -> None:
    frugal(endless(first, b"\0"), "name or header is longer")
    packed = gzip.compress(first + bytes(64 * 2**20), 1)
    frugal(iter([packed]), "name or header is longer")


def test_memory_does_not_grow_with_many_headers() -> None:
    holes = pax(SPARSE) + header(b"0", 250 * 2**20) + b"9999999\n".ljust(512, b"1")
    frugal(endless(holes, b"1\n"), "more between two files|isn't a whole tar")
    map_of_holes = bytearray(header(b"S", 512))
    map_of_holes[482] = 1  # it goes on in the next block
    map_of_holes[148:156] = b"%06o\0 " % (256 + sum(map_of_holes[:148]) + sum(map_of_holes[156:]))
    frugal(endless(bytes(map_of_holes), b"1" * 512), "file with holes")
    frugal(repeat(pax({"a": "b"}, tarfile.XGLTYPE), 300), "name or header is longer")
    folders = (
        pax({f"key{number}.{key}": "" for key in range(200)}, tarfile.XGLTYPE) + header(b"5", 0, "folder")
        for number in range(300)
    )
    frugal(folders, "no manifest.json")
    frugal((header(b"5", 0) for _ in range(10_001)), "more than 10000 files")


def frugal(pieces: Iterator[bytes], why: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadTarball, match=why):
            copy_image(Pieces(pieces), lambda _: None)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "odd",
    [
        pax(SPARSE) + header(b"0", 512) + b"no number\n" * 52,
        pax({"GNU.sparse.map": "1,x"}) + header(b"0", 0),
        pax({"GNU.sparse.size": "x"}) + header(b"0", 0),
        pax({"GNU.sparse.size": "1", "GNU.sparse.realsize": str(2**60)}) + header(b"0", 0),
        pax({"size": "-512"}) + header(b"0", 512) + bytes(512),
        pax({"size": "9" * 30}) + header(b"0", 512) + bytes(512),
        header(b"0", -512) + bytes(512),
        pax({"hdrcharset": "\ud8ff".encode("utf-8", "surrogatepass").decode("latin-1")}) + b"\xff" * 512,
        b"".join(pax({"path": str(number)}) for number in range(3000)) + header(b"0", 0),
        pax({"path": "x" * 2000}) + header(b"0", 0),
        pax({"path": "a\0b"}) + header(b"0", 0),
        header(b"L", 5) + b"\xff\n\xfe\0\0".ljust(512, b"\0") + header(b"6", 0),
    ],
    ids=lambda data: hashlib.sha256(data).hexdigest()[:6],
)
def test_odd_headers_are_refused_in_one_line(odd: bytes) -> None:
    with pytest.raises(BadTarball) as refusal:
        copied(odd + tar(old_form()))
    assert refusal.value.message.isprintable()
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ([], "names no layers"),
        ({}, "names no layers"),
        ({"rootfs": None}, "names no layers"),
        ({"rootfs": []}, "names no layers"),
        ({"rootfs": {"diff_ids": {}}}, "names no layers"),
        ({"rootfs": {"diff_ids": [7]}}, "names no layers"),
        ({"rootfs": {"diff_ids": []}}, "for what machines"),
        ({"rootfs": {"diff_ids": []}, "os": "linux", "architecture": 7}, "for what machines"),
        ({"rootfs": {"diff_ids": []}, "os": None, "architecture": "amd64"}, "for what machines"),
        ({"rootfs": {"diff_ids": ["x"]}, "os": "linux", "architecture": "amd64"}, "needs 1 layers and has 0"),
    ],
)
def test_a_config_that_is_none_is_refused(described: object, why: str) -> None:
    data = json.dumps(described).encode()
    image = {"Config": f"{sha(data)}.json", "Layers": None}
    refused({f"{sha(data)}.json": data, "manifest.json": json.dumps([image]).encode()}, why)


def test_a_manifest_is_refused_however_deep_it_is() -> None:
    files = old_form()
    manifest = bytes(files["manifest.json"])  # type: ignore[arg-type]
    for depth in (50, *range(850, 1000), 100_000):
        deep = manifest.replace(b'"RepoTags"', b'"x": ' + b"[" * depth + b"]" * depth + b', "RepoTags"')
        with contextlib.suppress(BadTarball):
            copied(tar({**files, "manifest.json": deep}))


@pytest.mark.parametrize("first", [".dockerenv", "dev/console", "etc/mtab"])
def test_the_files_of_a_container_are_no_image(first: str) -> None:
    odd = tarfile.TarInfo(first)
    odd.type, odd.linkname = (
        (tarfile.SYMTYPE, "/proc/mounts") if first == "etc/mtab" else (tarfile.CHRTYPE, "")
    )
    with pytest.raises(BadTarball, match="isn't a tarball of an image") as refusal:
        copied(tar({first: odd, "usr/bin/env": b"x"}))
    assert "docker save" in str(refusal.value.hint)


def test_an_image_for_other_machines_is_warned_of() -> None:
    assert warning("linux/amd64", "x86_64") == ""
    assert warning("linux/arm64", "aarch64") == ""
    assert warning("linux/riscv64", "riscv64") == ""
    assert warning("linux/arm64", "x86_64") == "the image is for linux/arm64, but this machine is linux/amd64"
    assert "windows/amd64" in warning("windows/amd64", "x86_64")


ODD = [
    b"x",
    b"g",
    b"X",
    b"L",
    b"K",
    b"S",
    b"0",
    b"1",
    b"2",
    b"5",
    b"7",
    b"\x80",
    b"\xff" * 12,
    b"GNU.sparse.major=1",
]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([old_form(), new_form()]))
def test_whatever_is_done_to_a_tarball_it_is_refused_or_copied(
    source: st.DataObject, files: Mapping[str, bytes | str | tarfile.TarInfo]
) -> None:
    data = bytearray(tar(files))
    for _ in range(source.draw(st.integers(1, 4))):
        block = 512 * source.draw(st.integers(0, len(data) // 512 - 1))
        if source.draw(st.booleans()):
            data[block:block] = source.draw(
                st.sampled_from([pax(SPARSE), pax({"size": "7"}), pax({"GNU.sparse.map": "0,1"}), bytes(512)])
            )
        at = block + source.draw(st.sampled_from([0, 100, 124, 156, 157, 345, 482, 500]))
        data[at : at + 1] = source.draw(st.sampled_from(ODD))
        checked = data[block : block + 512]
        checked[148:156] = b" " * 8
        data[block + 148 : block + 156] = b"%06o\0 " % sum(checked)
    with contextlib.suppress(BadTarball):
        copied(bytes(data))
