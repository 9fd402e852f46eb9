"""The status of an attempt: a fixed block, overwritten in place, because a full disk still allows that."""

from __future__ import annotations

import json
import os
import time
import zlib
from typing import Any

NAME = "status"
BLOCK = 4096
Status = dict[str, Any]


def encode_status(status: Status) -> bytes:
    """One block of exactly BLOCK bytes: checksum, JSON, padding."""
    body = json.dumps(status, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    block = b"%08x %s" % (zlib.crc32(body), body)
    if len(block) >= BLOCK:
        raise ValueError("status is too long")
    return block.ljust(BLOCK - 1) + b"\n"


def decode_status(block: bytes) -> Status | None:
    """The status in a block, None when there is no valid one."""
    head, _, body = block.partition(b" ")
    body = body.rstrip()
    try:
        if len(block) != BLOCK or int(head, 16) != zlib.crc32(body):
            return None
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_status(folder: int, name: str = NAME) -> Status | None:
    """The status in an attempt's folder; None when it was never stored. Waits for a write."""
    for _ in range(5):
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return None
        try:
            status = decode_status(os.pread(file, BLOCK, 0))
        finally:
            os.close(file)
        if status is not None:
            return status
        time.sleep(0.002)
    return None


def open_status(folder: int, name: str = NAME, *, create: bool = False) -> int:
    """The file of the block in an attempt's folder, to write; raises OSError."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    return os.open(name, flags, 0o600, dir_fd=folder)


def store_status(folder: int, status: Status, name: str = NAME, *, durable: bool) -> None:
    """Write the block of an attempt, which is made when it isn't there; raises OSError."""
    file = open_status(folder, name, create=True)
    try:
        os.pwrite(file, encode_status(status), 0)
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
