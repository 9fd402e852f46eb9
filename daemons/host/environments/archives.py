"""Tarballs of images: copied piece by piece, and believed only where each part is what its name says.

``docker save`` has made them in three forms: a folder ``<id>/layer.tar`` a layer, some of them links to
others; the OCI layout ``blobs/sha256/…``, whose layers may be compressed; and both at once. A copy has one
image and no name for it, so that loading it retags nothing. Nothing here knows of files or daemons.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from daemons.host.environments.sums import GZIP, ZSTD, Sums
from hakuriver.errors import UsageError

PIECE = 2**20
MAX_ENTRIES = 10_000
"""Headers, those that only lengthen another's name among them."""
MAX_EXTENSION = 8 * 2**10
"""Bytes of such a header: tarfile keeps them, and searches them with an expression of quadratic cost."""
MAX_CHAINED = 8
MAX_NAME = 1024
MAX_SIZE = 2**50
MAX_HELD = 32 * 2**20
"""Bytes of configs and lists that are kept in memory."""
_SMALL = 4 * 2**20
_REWRITTEN = ("manifest.json", "index.json", "oci-layout")
_DROPPED = ("repositories",)
_ROOTS = frozenset({".dockerenv", "bin", "boot", "dev", "etc", "proc", "usr", "var"})
_LAYOUT = {"imageLayoutVersion": "1.0.0"}
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_CONFIG = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_OTHERS = {ZSTD: "zstd", b"\xfd7zX": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}

Write = Callable[[bytes], object]


class Source(Protocol):
    """Where bytes come from: at most ``size`` of them, none at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class BadTarball(UsageError):
    """It isn't a whole image; nothing of it may be kept."""

    code = "bad_tarball"


@dataclass(frozen=True, slots=True)
class Copied:
    """The image of a tarball: its id (``sha256:…``), and the machines it is for (``linux/amd64``)."""

    image: str
    platform: str


def copy_image(source: Source, write: Write) -> Copied:
    """Copy the tarball of one image without its names, gunzipped.

    What ``write`` got is an image only when this returns. Raises BadTarball, and what ``source`` and
    ``write`` raise.
    """
    contents = _Contents(write)
    try:
        for entry, file in _entries(_Limited(_plain(_Peeked(source)))):
            contents.take(entry, file)
    except _BROKEN as error:
        raise _broken(error) from error
    found = contents.check()
    contents.finish()
    return found


_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)
_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_BROKEN = (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError)
_HOLES = "it has a file with holes, or of a size that no image has"


def _broken(error: Exception) -> BadTarball:
    return BadTarball(f"it isn't a whole tar file: {_shown(str(error))}", hint="was it cut, or changed?")


class _Limited:
    """A source that gives ``left`` bytes and then refuses: whatever tarfile makes of headers, it can't eat
    more than that between two files."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.left = 2 * PIECE

    def read(self, size: int = -1, /) -> bytes:
        found = self._source.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise BadTarball("it has more between two files than any image's tarball has")
        return found


class _Tar(tarfile.TarFile):
    """Counts its headers."""

    members: list[tarfile.TarInfo]
    headers = 0
    chained = 0

    def count(self, kind: bytes, size: int) -> None:
        """Refuse a header before anything of what it announces is read."""
        self.headers += 1
        if self.headers > MAX_ENTRIES:
            raise BadTarball(f"it has more than {MAX_ENTRIES} files, as no image has")
        if size < 0 or kind == tarfile.GNUTYPE_SPARSE:
            raise BadTarball(_HOLES)
        self.chained = self.chained + 1 if kind in _EXTENSIONS else 0
        if self.chained > MAX_CHAINED or (self.chained and size > MAX_EXTENSION):
            raise BadTarball("it has a file whose name or header is longer than any image's")


class _Entry(tarfile.TarInfo):
    """``_proc_member`` is where tarfile lets a subclass look at each header, before it reads on."""

    def _proc_member(self, tar: _Tar) -> tarfile.TarInfo:
        tar.count(self.type, self.size)
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found


def _entries(source: _Limited) -> Iterator[tuple[tarfile.TarInfo, Source | None]]:
    """Each entry, and what is in it where it is a file. tarfile's own parser trips over odd headers in more
    ways than it says, hence the long list; what happens to an entry elsewhere isn't caught here."""
    try:
        tar: _Tar = _Tar.open(  # type: ignore[call-overload]
            fileobj=source, mode="r|", bufsize=PIECE, tarinfo=_Entry
        )
        while (entry := tar.next()) is not None:
            if not 0 <= entry.size < MAX_SIZE or entry.issparse():
                raise BadTarball(_HOLES)
            source.left = entry.size + 2 * PIECE
            yield entry, tar.extractfile(entry) if entry.type in _FILES else None
            source.left = 2 * PIECE
            tar.members.clear()  # it would keep them all, each with its own copy of such headers
            tar.pax_headers = {}
    except (*_BROKEN, ValueError, LookupError, OverflowError, RecursionError) as error:
        raise _broken(error) from error


class _Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.head = b""
        while len(self.head) < 4 and (more := source.read(PIECE)):
            self.head += more

    def read(self, size: int = -1, /) -> bytes:
        if not self.head:
            return self._source.read(size)
        found, self.head = (self.head[:size], self.head[size:]) if size >= 0 else (self.head, b"")
        return found


def _plain(peeked: _Peeked) -> Source:
    for magic, name in _OTHERS.items():
        if peeked.head.startswith(magic):
            raise BadTarball(f"it is compressed with {name}", hint="unpack it first, or use gzip")
    if peeked.head.startswith(GZIP):
        return gzip.GzipFile(fileobj=peeked, mode="rb")  # type: ignore[call-overload,no-any-return]
    return peeked


class _Contents:
    """What a tarball holds, seen once from its beginning to its end."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._sums: dict[str, frozenset[str]] = {}
        self._links: dict[str, str] = {}
        self._small: dict[str, bytes] = {}
        self._held = 0
        self._dirs: set[str] = set()
        self._opaque: set[str] = set()

    def take(self, entry: tarfile.TarInfo, file: Source | None) -> None:
        """Copy an entry, unless it is one that is written anew at the end."""
        name = _inside(entry.name)
        if name.split("/")[0] in _ROOTS and "manifest.json" not in self._sums:
            raise _no_image(f"it has {name.split('/')[0]}, as the files of a machine have")
        if name in self._sums or name in self._links:
            raise BadTarball(f"it has {_shown(name)} twice")
        if file is not None:
            self._file(name, entry.size, file)
        elif entry.type in _LINKS:
            start = posixpath.dirname(name) if entry.type == tarfile.SYMTYPE else ""
            self._links[name] = _inside(posixpath.join(start, entry.linkname))
            made = _header(name, tarfile.SYMTYPE)
            made.linkname = posixpath.relpath(self._links[name], posixpath.dirname(name) or ".")
            self._write(_encoded(made))
        elif entry.isdir():
            if name not in self._dirs:
                self._dirs.add(name)
                self._write(_encoded(_header(name, tarfile.DIRTYPE, mode=0o755)))
        else:
            raise BadTarball(f"it has {_shown(name)}, which is neither a file nor a folder")

    def _file(self, name: str, size: int, file: Source) -> None:
        kept = name not in _REWRITTEN and name not in _DROPPED
        if not kept and size > _SMALL:
            raise BadTarball(f"its {name} is larger than any image's")
        if kept:
            self._write(_encoded(_header(name, tarfile.REGTYPE, size)))
        sums = Sums()
        first, left = b"", size
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise BadTarball(f"it ends in the middle of {_shown(name)}", hint="was it cut?")
            left -= len(piece)
            sums.update(piece)
            if size <= _SMALL and (first or piece.lstrip()[:1] in (b"{", b"[")):
                first += piece
            if kept:
                self._write(piece)
        if kept and size % tarfile.BLOCKSIZE:
            self._write(bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE))
        blob = _BLOB.fullmatch(name)
        if blob is not None and blob[1] != sums.whole:
            raise BadTarball(f"its {_shown(name)} is damaged: the contents aren't what its name says")
        self._sums[name] = sums.sums
        if sums.opaque:
            self._opaque.add(name)
        if first:
            self._held += len(first)
            if self._held > MAX_HELD:
                raise BadTarball("it describes itself at a length that no image needs")
            self._small[name] = first

    def check(self) -> Copied:
        """The image, once config and layers are what they must be."""
        image = self._image()
        name, layers = image.get("Config"), image.get("Layers")
        layers = [] if layers is None else layers
        if not isinstance(name, str) or not isinstance(layers, list):
            raise BadTarball("its manifest.json isn't that of an image")
        sha = _CONFIG.fullmatch(posixpath.normpath(name))
        sums = self._sums.get(self._resolve(name), frozenset())
        if sha is None or sha[1] not in sums:
            raise BadTarball(f"the config {_shown(name)} of its image is missing or damaged")
        config = self._json(self._resolve(name))
        rootfs = config.get("rootfs") if isinstance(config, dict) else None
        diffs = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(diffs, list) or not all(isinstance(each, str) for each in diffs):
            raise BadTarball("the config of its image names no layers")
        system, machine = config.get("os"), config.get("architecture")
        if not isinstance(system, str) or not isinstance(machine, str):
            raise BadTarball("the config of its image doesn't say for what machines it is")
        if len(diffs) != len(layers):
            raise BadTarball(f"its image needs {len(diffs)} layers and has {len(layers)}")
        for number, (layer, diff) in enumerate(zip(layers, diffs, strict=True), 1):
            self._check_layer(str(layer), diff, f"layer {number} of {len(layers)}")
        self._check_index()
        return Copied(f"sha256:{sha[1]}", _shown(f"{system}/{machine}"))

    def _check_layer(self, layer: str, diff: str, which: str) -> None:
        name = self._resolve(layer)
        if name not in self._sums:
            raise BadTarball(f"{which} of its image is missing", hint="was it cut?")
        by_name = name in self._opaque and _BLOB.fullmatch(name) is not None
        if diff.removeprefix("sha256:") not in self._sums[name] and not by_name:
            raise BadTarball(f"{which} of its image is damaged: its contents aren't what the config says")

    def _check_index(self) -> None:
        if "index.json" not in self._sums:
            return
        digests = {each["digest"] for each in self._listed()}
        if len(digests) != 1:
            raise BadTarball("its index.json lists several images", hint="save one image: docker save IMAGE")
        if f"blobs/{digests.pop().replace(':', '/')}" not in self._sums:
            raise BadTarball("the manifest of its image is missing", hint="was it cut?")

    def finish(self) -> None:
        """Write what was held back, without names, and the end."""
        image = self._image()
        new: dict[str, Any] = {"manifest.json": [{**image, "RepoTags": None}]}
        if "index.json" in self._sums:
            index = self._json("index.json")
            new |= {"index.json": {**index, "manifests": self._listed()[:1]}, "oci-layout": _LAYOUT}
        for name, value in new.items():
            try:
                data = json.dumps(value, separators=(",", ":")).encode()
            except RecursionError as error:  # it is nested a little deeper than what was read
                raise BadTarball(f"its {name} can't be understood") from error
            self._write(_encoded(_header(name, tarfile.REGTYPE, len(data))))
            self._write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        self._write(bytes(2 * tarfile.BLOCKSIZE))

    def _image(self) -> dict[str, Any]:
        if "manifest.json" not in self._sums:
            raise _no_image("it has no manifest.json")
        images = self._json("manifest.json")
        if not isinstance(images, list) or not all(isinstance(each, dict) for each in images):
            raise BadTarball("its manifest.json isn't that of an image")
        if len(images) != 1:
            raise BadTarball(f"it has {len(images)} images", hint="save one image: docker save IMAGE")
        only: dict[str, Any] = images[0]
        return only

    def _listed(self) -> list[dict[str, Any]]:
        """The images of an OCI index, without their names."""
        index = self._json("index.json")
        found = index.get("manifests") if isinstance(index, dict) else None
        if not isinstance(found, list) or not all(
            isinstance(each, dict) and isinstance(each.get("digest"), str) for each in found
        ):
            raise BadTarball("its index.json isn't that of an image")
        listed: list[dict[str, Any]] = []
        for each in found:
            notes = each.get("annotations")
            kept = {k: v for k, v in notes.items() if k not in _NAMES} if isinstance(notes, dict) else None
            rest = {key: value for key, value in each.items() if key != "annotations"}
            listed.append({**rest, "annotations": kept} if kept else rest)
        return listed

    def _json(self, name: str) -> Any:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(self._small.get(name, b""))
        raise BadTarball(f"its {name} can't be understood")

    def _resolve(self, name: str) -> str:
        """Where a name leads, through links."""
        name = _inside(name)
        for _ in range(8):
            if name not in self._links:
                break
            name = self._links[name]
        return name


def _no_image(why: str) -> BadTarball:
    return BadTarball(
        f"{why}: it isn't a tarball of an image",
        hint="make one with docker save IMAGE (docker export writes files, not an image)",
    )


def _shown(text: str) -> str:
    """Text from a tarball as it may stand in a message: one line, and no half characters."""
    return text[:90].encode("unicode_escape").decode("ascii")


def _inside(name: str) -> str:
    """A name within the tarball; refuses those that lead out of it."""
    if len(name) > MAX_NAME or "\0" in name:
        raise BadTarball(f"its file {_shown(name)} has a name that no image's has")
    if name.startswith("/") or posixpath.normpath(name).split("/")[0] == "..":
        raise BadTarball(f"its file {name[:80]!r} would lie outside of it")
    return posixpath.normpath(name)


def _header(name: str, kind: bytes, size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.mode = kind, size, mode
    return made


def _encoded(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
