"""The state folder: one per machine and cluster, on a local disk, and everything that lies in it.

``<state>/<machine-id>/`` holds

    cluster.json        host and runner: url, pid (written by the supervisor; what `status` and clients read)
    supervisor.lock     held by the running supervisor
    credentials/        user.token  node.token  host.token     each 0600
    host/               hakuriver.db  host.log
    runner/             journal.db  runner.log  lease  forkserver-*.sock  attempts/<task>.<n>/
    shared/             the default shared_dir: task_outputs/  task_errors/
    temp/               the default local_temp_dir
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hakuriver.errors import ConfigError

_NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.s3fs", "fuse.rclone"}
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside one machine's state folder (pure: makes nothing)."""

    root: Path

    @property
    def cluster_file(self) -> Path:
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def user_token(self) -> Path:
        return self.credentials / "user.token"

    @property
    def node_token(self) -> Path:
        return self.credentials / "node.token"

    @property
    def host_token(self) -> Path:
        return self.credentials / "host.token"

    @property
    def host(self) -> Path:
        return self.root / "host"

    @property
    def database(self) -> Path:
        return self.host / "hakuriver.db"

    @property
    def runner(self) -> Path:
        return self.root / "runner"

    @property
    def journal(self) -> Path:
        return self.runner / "journal.db"

    @property
    def attempts(self) -> Path:
        return self.runner / "attempts"

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    @property
    def temp(self) -> Path:
        return self.root / "temp"


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_STATE_HOME/hakuriver`` or ``~/.local/state/hakuriver``."""
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "hakuriver"


def machine_id() -> str:
    """A stable short name of this machine: the first 12 characters of its machine id, else the host name."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return text[:12]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "machine"


def layout(state_dir: Path) -> Layout:
    """This machine's part of a state folder."""
    return Layout(state_dir / machine_id())


def filesystem_type(path: Path, mountinfo: str) -> str:
    """Type of the filesystem that holds ``path``, from the text of /proc/self/mountinfo."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        parts = left.split(" ")
        if len(parts) < 5 or not right:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), parts[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind


def check_local(state_dir: Path, mountinfo: str | None = None) -> None:
    """Refuse a state folder on a network filesystem: SQLite's locks are not safe there."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", errors="surrogateescape")
        except OSError:
            return
    kind = filesystem_type(state_dir.expanduser().resolve(), mountinfo)
    if kind in _NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"state folder {state_dir} is on a network filesystem ({kind}), where a database is not safe",
            hint=f"use a local disk: --state-dir {local_proposal()}",
            code="state_on_network_filesystem",
        )


def local_proposal() -> Path:
    """A private local folder for those whose home is on a network."""
    return Path("/var/lib/hakuriver") if os.geteuid() == 0 else Path(f"/var/tmp/hakuriver-{os.getuid()}")  # noqa: S108


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter; raises ConfigError in one clear line."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        if info.st_uid != os.geteuid():
            raise ConfigError(
                f"{folder} belongs to another user (uid {info.st_uid})", hint="choose another --state-dir"
            )
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"state folder {folder} can't be used: {error.strerror}", hint="choose another --state-dir"
        ) from error


def ensure_token(path: Path) -> str:
    """The token in a 0600 file, made (never overwritten) when it is missing; raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return read_token(path)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            token = secrets.token_urlsafe(32)
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        return token
    except OSError as error:
        raise ConfigError(f"token file {path} can't be made: {error.strerror}") from error


def read_token(path: Path) -> str:
    """The token in a file; raises ConfigError when it is missing, empty or open to others."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"token file {path} can be read by others", hint=f"chmod 600 {path}")
        token = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"token file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path} can't be read: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,200}", token):
        raise ConfigError(f"token file {path} holds no token", hint="remove it; hakuriver up makes a new one")
    return token
