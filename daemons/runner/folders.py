"""The private folder of an attempt (layout: docs/architecture.md)."""

from __future__ import annotations

import os
from pathlib import Path

from daemons.runner.model import Key, folder_name
from hakuriver.fields import Stream

STREAM_FILES: dict[Stream, str] = {"stdout": "out", "stderr": "err"}


def folder_of(attempts: Path, key: Key) -> Path:
    """An attempt's folder."""
    return attempts / folder_name(key)


def prepare(attempts: Path, key: Key) -> Path:
    """Make what is missing of an attempt's folder; raises OSError. Everybody may write in ``io`` only,
    because a container's user may be anybody."""
    folder = folder_of(attempts, key)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    io = folder / "io"
    io.mkdir(exist_ok=True)
    io.chmod(0o777)
    for name in STREAM_FILES.values():
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(io / name, flags, 0o666)
        try:
            os.fchmod(file, 0o666)
        finally:
            os.close(file)
    return folder


def take_claim(attempts: Path, key: Key) -> bool:
    """Take the claim of an attempt: True proves that it never ran and never will, however often it is asked.

    Our claim is a link to a file that no container sees: it stays ours when we are killed right after.
    """
    mark, claim = _mark_and_claim(attempts, key)
    os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        claim.hardlink_to(mark)
    except FileExistsError:
        return os.path.samestat(mark.lstat(), claim.lstat())
    return True


def given_up(attempts: Path, key: Key) -> bool:
    """Whether we took the claim of an attempt before."""
    mark, claim = _mark_and_claim(attempts, key)
    try:
        return os.path.samestat(mark.lstat(), claim.lstat())
    except FileNotFoundError:
        return False


def _mark_and_claim(attempts: Path, key: Key) -> tuple[Path, Path]:
    folder = folder_of(attempts, key)
    return folder / "given-up", folder / "io" / "claim"
