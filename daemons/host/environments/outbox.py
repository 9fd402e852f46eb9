"""Output that a client has not acknowledged yet: what a lost connection must not lose. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

PIECE = 2**15
_OVERHEAD = 64
"""What a piece costs besides its bytes."""


@dataclass(slots=True)
class _Piece:
    start: int
    stream: int
    data: bytearray = field(default_factory=bytearray)


class Outbox:
    """Bytes of several streams in one order, each known by how many came before it."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self.start = 0
        """How many bytes were acknowledged."""
        self.end = 0
        """How many bytes there ever were."""

    @property
    def weight(self) -> int:
        """What it costs to keep."""
        return self.end - self.start + _OVERHEAD * len(self._pieces)

    def add(self, stream: int, data: bytes) -> None:
        """More output."""
        last = self._pieces[-1] if self._pieces else None
        if last is None or last.stream != stream or len(last.data) + len(data) > PIECE:
            last = _Piece(self.end, stream)
            self._pieces.append(last)
        last.data += data
        self.end += len(data)

    def acknowledge(self, count: int) -> bool:
        """Forget the first ``count`` bytes of all; whether that can be."""
        if not self.start <= count <= self.end:
            return False
        self.start = count
        gone = 0
        while gone < len(self._pieces) and self._pieces[gone].start + len(self._pieces[gone].data) <= count:
            gone += 1
        del self._pieces[:gone]
        return True

    def after(self, count: int) -> tuple[int, bytes] | None:
        """The stream and the bytes that follow the first ``count``, None when there are none yet."""
        if count >= self.end:
            return None
        piece = self._pieces[bisect_right(self._pieces, count, key=lambda each: each.start) - 1]
        return piece.stream, bytes(piece.data[count - piece.start :])
