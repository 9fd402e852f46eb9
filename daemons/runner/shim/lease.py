"""The lease: until when fenced attempts of this node may run. The runner writes it, those who fence read it.

One block that is overwritten in place, because a full disk still allows that: checksum, the deadline in
seconds of CLOCK_BOOTTIME, the boot for which it holds.
"""

from __future__ import annotations

import os
import zlib

from daemons.runner.shim.proc import boot_id, boottime

NAME = "lease"  # in the runner's folder
LOOK_INTERVAL = 1.0
_BLOCK = 128


def encode_lease(deadline: float, boot: str) -> bytes:
    """The block, of always the same length."""
    body = b"%.3f %s" % (deadline, boot.encode())
    return (b"%08x %s" % (zlib.crc32(body), body)).ljust(_BLOCK - 1) + b"\n"


def decode_lease(block: bytes, boot: str) -> float | None:
    """The deadline in a block; None when it is damaged or of another boot."""
    head, _, body = block.partition(b" ")
    body = body.rstrip()
    try:
        if len(block) != _BLOCK or int(head, 16) != zlib.crc32(body):
            return None
        deadline, _, found = body.decode("ascii").partition(" ")
        return float(deadline) if found == boot else None
    except ValueError:
        return None


class Fence:
    """Watches the lease for an attempt whose folder is open as ``folder``."""

    def __init__(self, folder: int, deadline: float = 0.0) -> None:
        self._folder = folder
        self._boot = boot_id()
        self._look_at = 0.0
        self.deadline = deadline  # the last one that was known: 0 is long over

    def over_for(self) -> float:
        """Seconds for which the lease is over, 0 while it holds. What can't be read changes nothing."""
        try:
            file = os.open(f"../../{NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            found = None
        else:
            try:
                found = decode_lease(os.pread(file, _BLOCK, 0), self._boot)
            except OSError:
                found = None
            finally:
                os.close(file)
        if found is not None:
            self.deadline = found
        return max(0.0, boottime() - self.deadline)

    def look(self, now: float) -> tuple[float, float]:
        """``over_for`` about once a second, and when to look again (both clocks of the caller's loop)."""
        if now < self._look_at:
            return 0.0, self._look_at
        self._look_at = now + LOOK_INTERVAL
        return self.over_for(), self._look_at
