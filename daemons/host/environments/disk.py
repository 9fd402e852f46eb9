"""Tarballs on a disk, blocking: nobody ever finds half a file there under its name.

A tarball is written under a name that says so, with a lock that the kernel takes away from whoever dies; then
its sidecar gets its name, then it does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from hakuriver.environments import SIDECAR, Reference, is_partial, parse_tarball, partial_name, tarball_name
from hakuriver.errors import Conflict, NotFound, StorageFull, Unreachable
from hakuriver.fields import EnvironmentName, Note, Sha256, Text, Version

STUCK = 120.0
"""Seconds that one write to the folder, or everything that makes a file visible, may take."""
SYNC_BYTES = 64 * 2**20
DEAD = 3600.0
"""Seconds after which a part is dead where the server of the folder has no locks."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_SIDECAR = 64 * 1024


class GivenUp(Exception):
    """Nobody waits for it any more."""


class Sidecar(BaseModel):
    """What lies beside a tarball. ``removed``: its version was to be deleted; only the database knows
    whether that happened."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    environment: EnvironmentName
    version: Version
    size: int
    sha256: Sha256
    image: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    note: Note
    by: Text
    created_at: Annotated[str, StringConstraints(max_length=40)]
    cluster: Text
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Lying:
    """A tarball as it lies in the folder; ``problem`` says why its sidecar can't be believed."""

    name: str
    version: int
    size: int
    sidecar: Sidecar | None
    problem: str


class Writer:
    """A tarball that is being written. Blocking; ``write`` in one thread, the rest in any."""

    def __init__(self, folder: Path, name: str, version: int, progress: Callable[[int], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.size = 0
        self.since: float | None = None
        self._progress = progress
        self._sha = hashlib.sha256()
        self._synced = 0
        self._over = False
        self._lock = threading.Lock()
        self.partial, held = _new_part(folder, name, version)
        self._file: int | None = held

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._sha.hexdigest()

    @property
    def stuck(self) -> bool:
        """Whether the folder doesn't answer."""
        since = self.since
        return since is not None and time.monotonic() - since > STUCK

    def write(self, data: bytes) -> None:
        """Append; raises StorageFull, Unreachable, GivenUp."""
        with self._lock:
            self._sha.update(data)
            with self._busy() as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                self.size += len(data)
                if self.size - self._synced >= SYNC_BYTES:  # what fits now is there, and what waits is little
                    os.fdatasync(file)
                    self._synced = self.size
        self._progress(self.size)

    def publish(self, sidecar: Sidecar, *, replace: bool) -> None:
        """Give it its name, durably; raises Conflict where there is such a file, unless it is replaced."""
        path = self.folder / tarball_name(sidecar.environment, sidecar.version)
        with self._lock, self._busy() as file:
            os.fsync(file)
            if path.exists() and not replace:
                raise Conflict(f"{path} exists already", hint="was it put there by hand?")
            beside = write_sidecar(self.folder, sidecar)
            if self._over:
                raise GivenUp
            try:
                self.partial.rename(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            sync_folder(self.folder)
            self._close()

    def discard(self) -> None:
        """Leave nothing of what was not published."""
        self._over = True
        with contextlib.suppress(OSError):
            self.partial.unlink()
        with self._lock:
            self._close()

    def give_up(self) -> None:
        """Let the thread that writes end."""
        self._over = True

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextlib.contextmanager
    def _busy(self) -> Iterator[int]:
        if self._over or self._file is None:
            raise GivenUp
        self.since = time.monotonic()
        try:
            with explained(self.folder):
                yield self._file
        finally:
            self.since = None


def _new_part(folder: Path, name: str, version: int) -> tuple[Path, int]:
    """A part that is locked, and its descriptor."""
    while True:
        path = folder / partial_name(name, version, secrets.token_hex(8))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(path, flags, 0o644)
        with contextlib.suppress(OSError):  # some servers have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return path, file
        os.close(file)  # somebody swept between the two


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What the system says about a folder, as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"the disk of {folder} is full", hint="nothing was kept; make room there and try again"
            ) from error
        raise Unreachable(f"{folder} can't be used: {error.strerror}") from error


def open_tarball(path: Path, size: int) -> int:
    """A descriptor of a tarball; raises NotFound where it is missing or of another size, and OSError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path} is missing", code="no_tarball") from None
    info = os.fstat(file)
    if stat.S_ISREG(info.st_mode) and info.st_size == size:
        return file
    os.close(file)
    raise NotFound(f"{path} has {info.st_size} bytes instead of {size}", code="no_tarball")


def write_sidecar(folder: Path, sidecar: Sidecar) -> Path:
    """Put a sidecar in its place, durably; raises OSError, leaving nothing new."""
    place = folder / (tarball_name(sidecar.environment, sidecar.version) + SIDECAR)
    part = folder / partial_name(sidecar.environment, sidecar.version, secrets.token_hex(8))
    data = sidecar.model_dump_json(exclude_defaults=True, indent=1).encode() + b"\n"
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(place)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return place


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar of a tarball, None where there is none that can be understood; raises other OSError."""
    try:
        file = os.open(
            path.with_name(path.name + SIDECAR), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        return Sidecar.model_validate_json(os.read(file, _MAX_SIDECAR))
    except ValidationError:
        return None
    finally:
        os.close(file)


def look(folder: Path) -> list[Lying]:
    """The tarballs of a folder, each with its sidecar or why that can't be believed; raises OSError."""
    found: list[Lying] = []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        reference = parse_tarball(path.name)
        if reference is None or reference.version is None:
            continue
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            continue
        sidecar = read_sidecar(path)
        problem = _mismatch(sidecar, reference, info.st_size)
        sidecar = None if problem else sidecar
        found.append(Lying(reference.name, reference.version, info.st_size, sidecar, problem))
    return found


def _mismatch(sidecar: Sidecar | None, reference: Reference, size: int) -> str:
    """Why a sidecar can't be believed; empty when it can."""
    if sidecar is None:
        return "has no sidecar that can be understood"
    if (sidecar.environment, sidecar.version) != (reference.name, reference.version):
        return "has the sidecar of another"
    return "" if sidecar.size == size else f"has {size} bytes, but {sidecar.size} by its sidecar"


def sweep(folder: Path, cluster: str) -> None:
    """Remove what writers that died left behind: parts that nobody holds, and our sidecars of nothing."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    alive = {name for name in names if is_partial(name) and not _remove_dead(folder / name)}
    for name in names:
        tarball = name.removesuffix(SIDECAR)
        if tarball == name or parse_tarball(tarball) is None or tarball in names:
            continue
        if any(each.startswith(f".{tarball}.") for each in alive):
            continue
        found = read_sidecar(folder / tarball)
        if found is not None and found.cluster == cluster and not (folder / tarball).exists():
            (folder / name).unlink(missing_ok=True)


def _remove_dead(path: Path) -> bool:
    """Remove a part unless somebody holds it; whether it is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        dead = True
    except BlockingIOError:
        dead = False
    except OSError:  # a server without locks
        dead = time.time() - os.fstat(file).st_mtime > DEAD
    try:
        if dead:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)
    return dead


def sync_folder(folder: Path) -> None:
    """Make names durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
