"""What a layer in a tarball may be called: by its bytes, and by what they are when unpacked."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
_STEP = 16 * 2**10
"""Bytes unpacked at once: what is left of them is copied at the end of each of many small streams."""
_MOST = 2**20


class Sums:
    """The sha256 of bytes, and of what they are when gunzipped, where they are gzip."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._unpacked: Any = None
        self._stream: Any = None
        self._first = True
        self.opaque = False
        """Whether they are compressed in a way that we can't undo."""

    def update(self, piece: bytes) -> None:
        self._whole.update(piece)
        if self._first and piece:
            self._first, self.opaque = False, piece.startswith(ZSTD)
            if piece.startswith(GZIP):
                self._unpacked, self._stream = hashlib.sha256(), zlib.decompressobj(31)
        if self._stream is not None:
            for start in range(0, len(piece), _STEP):
                self._unpack(piece[start : start + _STEP])

    def _unpack(self, piece: bytes) -> None:
        while piece:
            self._unpacked.update(self._stream.decompress(piece, _MOST))
            piece = self._stream.unconsumed_tail
            if self._stream.eof:  # several pieces of gzip, one after the other
                piece = self._stream.unused_data.lstrip(b"\0")
                self._stream = zlib.decompressobj(31)

    @property
    def sums(self) -> frozenset[str]:
        """What these bytes may be called."""
        found = {self._whole.hexdigest()}
        return frozenset(found | {self._unpacked.hexdigest()} if self._unpacked is not None else found)

    @property
    def whole(self) -> str:
        return self._whole.hexdigest()
