"""Tarballs of images, copied and checked; and what lies in a folder of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.host.environments import disk
from daemons.host.environments.archives import BadTarball, copy_image
from daemons.host.environments.catalog import VersionRow
from daemons.host.environments.disk import GivenUp, Lying, Sidecar, Writer
from daemons.host.environments.inventory import compare
from daemons.host.environments.versions import sidecar_of
from hakuriver.environments import is_partial, tarball_name
from hakuriver.errors import Conflict
from tests.bench.tarballs import Pieces, image

CLUSTER = "c" * 32
LAYERS = (b"first layer " * 300, b"second")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar(files: Mapping[str, bytes | str | tarfile.TarInfo]) -> bytes:
    """A tarball: bytes are files, text is where a link leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, value in files.items():
            entry = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(value, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, value
            data = value if isinstance(value, bytes) else b""
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def config(*layers: bytes) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha(each)}" for each in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


def old_form(layers: tuple[bytes, ...] = LAYERS, **manifest: Any) -> dict[str, bytes | str | tarfile.TarInfo]:
    """What docker has saved up to 24: a folder a layer; the same layer again is a link."""
    described = config(*layers, layers[0])
    names = [f"{number}{'0' * 63}/layer.tar" for number in range(len(layers) + 1)]
    image = {"Config": f"{sha(described)}.json", "RepoTags": ["stolen:latest"], "Layers": names, **manifest}
    return {
        **dict(zip(names, layers, strict=False)),
        names[-1]: f"../{names[0]}",
        f"{sha(described)}.json": described,
        "repositories": b'{"stolen": {"latest": "x"}}',
        "manifest.json": json.dumps([image]).encode(),
    }


def new_form(
    packed: Callable[[bytes], bytes] = bytes, names: int = 1
) -> dict[str, bytes | str | tarfile.TarInfo]:
    """What docker saves since 25: the OCI layout besides."""
    described = config(*LAYERS)
    blobs = {f"blobs/sha256/{sha(packed(each))}": packed(each) for each in LAYERS}
    manifest = json.dumps({"config": {"digest": f"sha256:{sha(described)}"}}).encode()
    index = [
        {
            "digest": f"sha256:{sha(manifest)}",
            "annotations": {
                "io.containerd.image.name": f"docker.io/library/stolen:{number}",
                "org.opencontainers.image.ref.name": "latest",
                "kept": "yes",
            },
        }
        for number in range(names)
    ]
    image = {"Config": f"blobs/sha256/{sha(described)}", "RepoTags": ["stolen:1"], "Layers": list(blobs)}
    return {
        "blobs": _folder("blobs"),
        f"blobs/sha256/{sha(described)}": described,
        f"blobs/sha256/{sha(manifest)}": manifest,
        **blobs,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": index}).encode(),
        "manifest.json": json.dumps([image]).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }


def _folder(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry


def copied(data: bytes) -> tuple[str, bytes]:
    out = io.BytesIO()
    return copy_image(io.BytesIO(data), out.write).image, out.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {each.name: file.read() for each in opened if (file := opened.extractfile(each)) is not None}


def refused(files: Mapping[str, bytes | str | tarfile.TarInfo], why: str) -> None:
    with pytest.raises(BadTarball, match=why):
        copied(tar(files))


@pytest.mark.parametrize(
    "files",
    [old_form(), new_form(), new_form(lambda data: gzip.compress(data, mtime=0)), new_form(names=2)],
    ids=["folders", "layout", "compressed layers", "two names of one"],
)
@pytest.mark.parametrize("outside", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_image_is_copied_without_its_names(
    files: Mapping[str, bytes | str | tarfile.TarInfo], outside: Callable[[bytes], bytes]
) -> None:
    image, data = copied(outside(tar(files)))
    found, given_files = read(data), read(tar(files))
    assert image.removeprefix("sha256:") in str(json.loads(given_files["manifest.json"])[0]["Config"])
    assert b"stolen" not in data
    (manifest,) = json.loads(found["manifest.json"])
    assert manifest["RepoTags"] is None
    for layer in manifest["Layers"]:
        assert found[layer] == given_files[layer]
    if "index.json" in found:
        (listed,) = json.loads(found["index.json"])["manifests"]
        assert listed["annotations"] == {"kept": "yes"}
    assert copied(data) == (image, data), "a copy of a copy is the same"


def test_a_layer_in_a_compression_that_is_not_known_is_believed_by_its_own_name() -> None:
    magic = b"\x28\xb5\x2f\xfd"
    image, _ = copied(tar(new_form(lambda data: magic + data)))
    assert image == f"sha256:{sha(config(*LAYERS))}"


def test_what_is_no_whole_image_is_refused_with_the_reason() -> None:
    files = old_form()
    one, *_, last = [name for name in files if name.endswith("layer.tar")]
    refused({"etc/passwd": b"root"}, "isn't a tarball of an image")
    refused({**files, "manifest.json": b"[]"}, "has 0 images")
    both = json.loads(bytes(files["manifest.json"])) * 2  # type: ignore[arg-type]
    refused({**files, "manifest.json": json.dumps(both).encode()}, "has 2 images")
    refused({**files, "manifest.json": b"{"}, "can't be understood")
    refused({**files, "manifest.json": b"[7]"}, "isn't that of an image")
    refused({**files, one: b"other"}, "layer 1 of 3 of its image is damaged")
    refused(
        {name: value for name, value in files.items() if name != one}, "layer 1 of 3 of its image is missing"
    )
    refused({**files, last: "../9/layer.tar"}, "layer 3 of 3 of its image is missing")
    refused(old_form(Layers=[one]), "needs 3 layers and has 1")
    refused(old_form(Config="../../etc/shadow"), "missing or damaged|would lie outside")
    refused(old_form(Config=f"{'0' * 64}.json"), "config 0000.* missing or damaged")
    blob = f"blobs/sha256/{sha(LAYERS[0])}"
    refused({**new_form(), blob: b"other"}, "the contents aren't what its name says")
    two = json.loads(bytes(new_form()["index.json"]))  # type: ignore[arg-type]
    two["manifests"].append({"digest": f"sha256:{'1' * 64}"})
    refused({**new_form(), "index.json": json.dumps(two).encode()}, "lists several images")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_tricks_with_paths_are_refused(name: str) -> None:
    refused({name: b"x", **old_form()}, "would lie outside")
    refused({"link": name if name != "a/../../x" else "../../x", **old_form()}, "would lie outside")
    pipe = tarfile.TarInfo("pipe")
    pipe.type = tarfile.FIFOTYPE
    refused({"pipe": pipe, **old_form()}, "neither a file nor a folder")


def test_what_is_no_tar_at_all_is_refused() -> None:
    for data in (b"", b"x", b"x" * 100_000, gzip.compress(b"x" * 100_000)):
        with pytest.raises(BadTarball):
            copied(data)
    with pytest.raises(BadTarball, match="compressed with zstd"):
        copied(b"\x28\xb5\x2f\xfd" + bytes(600))


@pytest.mark.parametrize("files", [old_form(), new_form()], ids=["folders", "layout"])
def test_a_cut_tarball_is_refused_wherever_it_is_cut(
    files: Mapping[str, bytes | str | tarfile.TarInfo],
) -> None:
    data = tar(files)
    packed = gzip.compress(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        manifest = opened.getmember("manifest.json")
    needed = manifest.offset_data + manifest.size  # what comes after it is written anew
    for at in {*range(0, needed, 512), *range(needed % 97, needed, 1511), needed - 1}:
        with pytest.raises(BadTarball):
            copied(data[:at])
    for at in range(0, len(packed) * 3 // 4, 41):
        with pytest.raises(BadTarball):
            copied(packed[:at])


@settings(max_examples=200)
@given(st.data(), st.sampled_from([old_form(), new_form()]))
def test_a_flipped_bit_is_refused_or_makes_no_difference(
    source: st.DataObject, files: Mapping[str, bytes | str | tarfile.TarInfo]
) -> None:
    data = bytearray(tar(files))
    want = {
        name: value
        for name, value in read(copied(bytes(data))[1]).items()
        if name.endswith("layer.tar") or name.startswith("blobs/")
    }
    image = copied(bytes(data))[0]
    data[source.draw(st.integers(0, len(data) - 1))] ^= 1 << source.draw(st.integers(0, 7))
    try:
        found, out = copied(bytes(data))
    except BadTarball:
        return
    assert found == image
    assert want.items() <= read(out).items()


def test_memory_does_not_grow_with_the_image() -> None:
    tracemalloc.start()
    try:
        assert copy_image(Pieces(image(128)), lambda _: None).platform == "linux/amd64"
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


# ---- the folder


def facts(data: bytes, version: int = 1700000000, **more: Any) -> Sidecar:
    return Sidecar(
        **{
            "environment": "torch",
            "version": version,
            "size": len(data),
            "sha256": sha(data),
            "image": f"sha256:{'a' * 64}",
            "note": "new",
            "by": "ann",
            "created_at": "2026-01-01T00:00:00.000Z",
            "cluster": CLUSTER,
            **more,
        }
    )


def published(folder: Path, sidecar: Sidecar, data: bytes) -> None:
    writer = Writer(folder, sidecar.environment, sidecar.version, lambda _: None)
    writer.write(data)
    assert (writer.size, writer.sha256) == (len(data), sha(data))
    writer.publish(sidecar, replace=False)
    writer.discard()


def test_a_tarball_and_its_sidecar_appear_whole(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    writer = Writer(folder, "torch", 1, lambda _: None)
    writer.write(b"half")
    (part,) = folder.iterdir()
    assert is_partial(part.name)
    assert disk.look(folder) == []
    writer.discard()
    assert list(folder.iterdir()) == []
    sidecar = facts(b"whole")
    published(folder, sidecar, b"whole")
    assert disk.look(folder) == [Lying("torch", 1700000000, 5, sidecar, "")]
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(Conflict, match="exists already"):
        published(folder, facts(b"other"), b"other")
    assert disk.look(folder) == [Lying("torch", 1700000000, 5, sidecar, "")]
    os.close(disk.open_tarball(folder / tarball_name("torch", 1700000000), 5))


def test_a_writer_that_was_given_up_writes_no_more(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "torch", 1, lambda _: None)
    writer.write(b"1")
    writer.give_up()
    with pytest.raises(GivenUp):
        writer.write(b"2")
    with pytest.raises(GivenUp):
        writer.publish(facts(b"1"), replace=False)
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_the_dead_left_is_swept_and_what_the_living_write_stays(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from daemons.host.environments.disk import Sidecar, Writer, write_sidecar\n"
        "writer = Writer(Path(sys.argv[1]), 'torch', 1600000000, lambda _: None)\n"
        "writer.write(b'half')\n"
        "write_sidecar(writer.folder, Sidecar.model_validate_json(sys.argv[2]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    beside = facts(b"half", 1600000000).model_dump_json()
    subprocess.run([sys.executable, "-c", code, str(tmp_path), beside], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    alive = Writer(tmp_path, "torch", 1700000000, lambda _: None)
    disk.write_sidecar(tmp_path, facts(b"", 1700000000))
    disk.write_sidecar(tmp_path, facts(b"", 1500000000, cluster="d" * 32))
    disk.sweep(tmp_path, CLUSTER)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {alive.partial.name, "torch-1700000000.tar.json", "torch-1500000000.tar.json"}
    alive.discard()


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        (None, "has no sidecar that can be understood"),
        (b"{", "has no sidecar that can be understood"),
        (facts(b"data", 5).model_dump_json().encode(), "has the sidecar of another"),
        (facts(b"longer").model_dump_json().encode(), "has 4 bytes, but 6 by its sidecar"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_not_believed(
    tmp_path: Path, beside: bytes | None, problem: str
) -> None:
    path = tmp_path / tarball_name("torch", 1700000000)
    path.write_bytes(b"data")
    if beside is not None:
        path.with_name(path.name + ".json").write_bytes(beside)
    assert disk.look(tmp_path) == [Lying("torch", 1700000000, 4, None, problem)]


# ---- what it means


def row(version: int, size: int = 4) -> VersionRow:
    return VersionRow(
        "torch", version, size, "f" * 64, f"sha256:{'a' * 64}", "", "ann", "2026-01-01T00:00:00Z"
    )


def lying(version: int, sidecar: Sidecar | None = None, size: int = 4, problem: str = "") -> Lying:
    return Lying("torch", version, size, sidecar, problem)


def test_what_lies_there_is_compared_with_what_is_stored() -> None:
    ours = sidecar_of(row(1), CLUSTER)
    removed = ours.model_copy(update={"removed": True})

    def check(lies: list[Lying], stored: list[VersionRow]) -> Any:
        found = compare("/shared/c", lies, stored, CLUSTER)
        return found.adopt, found.delete, found.repair, found.problems

    assert check([lying(1, ours)], [row(1)]) == ([], [], [], {}), "all is well"
    assert check([lying(1, ours)], []) == ([ours], [], [], {}), "the database was restored"
    assert check([lying(1, removed)], []) == ([], [removed], [], {}), "killed while it was removed"
    assert check([lying(1, removed)], [row(1)]) == ([], [], [row(1)], {}), "killed before it was removed"
    assert check([lying(1)], [row(1)]) == ([], [], [row(1)], {}), "the sidecar is gone"
    theirs = ours.model_copy(update={"cluster": "d" * 32})
    assert check([lying(1, theirs)], []) == ([], [], [], {}), "another cluster's"
    *nothing, problems = check([lying(1, problem="has no sidecar")], [])
    assert nothing == [[], [], []]
    assert "env import /shared/c/torch-1.tar" in problems["torch"][0]
    *nothing, problems = check([], [row(1)])
    assert nothing == [[], [], []]
    assert "torch-1.tar is missing" in problems["torch"][0]
    *nothing, problems = check([lying(1, ours, size=3)], [row(1)])
    assert nothing == [[], [], []]
    assert "has 3 bytes instead of 4" in problems["torch"][0]
