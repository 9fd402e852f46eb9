"""A version's tarball, from the shared folder or from the host: nothing is used whose bytes are not verified.

Everything here blocks, and may hang where the shared folder does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from daemons.runner.images.stage import Stage
from daemons.runner.model import TryLater
from hakuriver.api import Client
from hakuriver.environments import tarball_name
from hakuriver.errors import StorageFull, Unreachable, UsageError
from hakuriver.nodewire import EnvironmentRef
from hakuriver.paths import host_path
from hakuriver.units import format_size

PIECE = 2**20
SHARED_PATIENCE = 5.0
"""Seconds for which a shared file that can't be seen, or is not right, may become so."""
LOOK_INTERVAL = 0.25
READ_TIMEOUT = 10.0
CUTS = 3  # that may follow each other without a byte between them

Print = tuple[int, int, int, int]


class WrongFile(Exception):
    """A file that is not the version's: why."""


def what_of(ref: EnvironmentRef) -> str:
    """A version as people write it."""
    return f"{ref.name}@{ref.version}"


def open_shared(folder: Path, ref: EnvironmentRef, wrong: dict[str, Print], stage: Stage) -> BinaryIO:
    """The verified tarball of the shared folder; raises WrongFile when there is none after a while.

    ``wrong`` remembers, by sha256, the file that was read in vain, so that it is not read again.
    """
    path, deadline = folder / tarball_name(ref.name, ref.version), time.monotonic() + SHARED_PATIENCE
    while True:
        try:
            return _open_right(path, ref, wrong, stage)
        except WrongFile as error:
            if time.monotonic() >= deadline or not folder.is_dir():
                raise
            stage.wait(LOOK_INTERVAL, str(error))


def _open_right(path: Path, ref: EnvironmentRef, wrong: dict[str, Print], stage: Stage) -> BinaryIO:
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)
    except OSError as error:
        raise WrongFile(f"{path} can't be read: {error.strerror}") from error
    try:
        _check(file, path, ref, wrong, stage)
    except BaseException:
        file.close()
        raise
    return file


def _check(file: BinaryIO, path: Path, ref: EnvironmentRef, wrong: dict[str, Print], stage: Stage) -> None:
    facts = os.fstat(file.fileno())
    seen = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != ref.size:
        raise WrongFile(f"{path} has {facts.st_size} bytes instead of {ref.size}")
    if wrong.get(ref.sha256) == seen:
        raise WrongFile(f"{path} is damaged: its sha256 is not {ref.sha256}")
    stage.say("checking", ref.size)
    try:
        verify(file, path, ref, stage)
    except WrongFile:
        wrong[ref.sha256] = seen
        raise


def verify(file: BinaryIO, path: Path, ref: EnvironmentRef, stage: Stage) -> None:
    """Read a whole file and go back to its start; raises WrongFile."""
    digest, done = hashlib.sha256(), 0
    try:
        file.seek(0)
        while piece := file.read(PIECE):
            digest.update(piece)
            done += len(piece)
            stage.at(done)
        file.seek(0)
    except OSError as error:
        raise WrongFile(f"{path} can't be read: {error.strerror}") from error
    if done != ref.size:
        raise WrongFile(f"{path} has {done} bytes instead of {ref.size}")
    if digest.hexdigest() != ref.sha256:
        raise WrongFile(f"{path} is damaged: its sha256 is {digest.hexdigest()} instead of {ref.sha256}")


def open_partial(path: Path) -> BinaryIO:
    """The file that a version is fetched into, at its end; raises TryLater while another thread has it."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise StorageFull(f"{path} can't be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0, os.SEEK_END)
    except BlockingIOError:
        file.close()
        raise TryLater(f"{path} is still being written") from None
    except BaseException:
        file.close()
        raise
    return file


def fetch(client: Client, ref: EnvironmentRef, file: BinaryIO, path: Path, stage: Stage) -> None:
    """Get what is missing of a tarball from the host; raises Unreachable when the host is away for long,
    StorageFull, and what else the host answers. What came stays in the file."""
    at, cuts = file.tell(), 0
    if at > ref.size:
        at = _again(file)
    space = os.statvfs(path.parent)
    if space.f_bavail * space.f_frsize < ref.size - at:
        raise StorageFull(
            f"{what_of(ref)} has {format_size(ref.size)}, and there is less space left at {path.parent}"
        )
    while at < ref.size:
        try:
            _download(client, ref, file, stage)
        except Unreachable as error:
            cuts = 0 if file.tell() > at else cuts + 1
            if cuts >= CUTS:
                raise
            stage.wait(LOOK_INTERVAL * 2**cuts, f"{error.message}, trying again")
        at = file.tell()


def _download(client: Client, ref: EnvironmentRef, file: BinaryIO, stage: Stage) -> None:
    """One request for all that is missing; raises Unreachable where it is cut."""
    at = file.tell()
    path = host_path("tarball", name=ref.name, version=ref.version)
    headers = {"Range": f"bytes={at}-"} if at else {}
    with client.open("GET", path, headers=headers, timeout=READ_TIMEOUT) as response:
        if at and response.status != HTTPStatus.PARTIAL_CONTENT:  # the whole of it, from its start
            at = _again(file)
        while at < ref.size:
            piece = response.read1(min(PIECE, ref.size - at))
            if not piece:
                raise Unreachable(f"the host broke off after {format_size(at)}")
            _write(file, piece)
            at += len(piece)
            stage.at(at)


def _write(file: BinaryIO, piece: bytes) -> None:
    """All of it; the client takes an OSError for one of the network."""
    try:
        left = memoryview(piece)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise StorageFull(f"what comes from the host can't be stored: {error.strerror}") from error


def _again(file: BinaryIO) -> int:
    file.seek(0)
    file.truncate()
    return 0


def fetch_right(client: Client, ref: EnvironmentRef, file: BinaryIO, path: Path, stage: Stage) -> None:
    """A verified tarball from the host, from its start once more where the rest of an earlier try was wrong.
    Raises like ``fetch``, and WrongFile."""
    resumed = file.tell() > 0
    stage.say("fetching", ref.size)
    try:
        fetch(client, ref, file, path, stage)
    except UsageError:  # such a range is not in the host's file
        if not resumed:
            raise
        _again(file)
        return fetch_right(client, ref, file, path, stage)
    stage.say("checking", ref.size)
    try:
        verify(file, path, ref, stage)
    except WrongFile:
        _again(file)
        if not resumed:
            raise
        fetch_right(client, ref, file, path, stage)
