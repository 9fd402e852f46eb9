"""The host daemon: from settings to a running server, and back."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemons.common import log, serve
from daemons.host import backup
from daemons.host.app import create_app
from daemons.host.auth import ensure_tokens
from daemons.host.context import open_host
from daemons.host.migrate import migrate
from hakuriver import statedir
from hakuriver.config import Settings
from hakuriver.errors import ConfigError, Conflict

events = log.Log("host")


def run(settings: Settings, layout: statedir.Layout, *, embedded: bool, insecure_bind: bool) -> int:
    """Serve until a signal says stop; returns the exit code. Raises HakuRiverError when it can't start."""
    log.configure()
    statedir.check_local(layout.root)
    statedir.make_private(layout.root)
    statedir.make_private(layout.host)
    tokens = ensure_tokens(settings, layout)
    network = settings.network
    with (
        database_lock(layout.host / "host.lock"),
        serve.listen(
            network.host_bind_ip, network.host_port, insecure_bind=insecure_bind, flag="hakuriver host"
        ) as listening,
    ):
        migrate(layout.database)

        async def main() -> None:
            host = await open_host(settings, layout, tokens, embedded=embedded)
            try:
                address, port = listening.getsockname()[:2]
                events.info("listening", address=address, port=port)
                app = create_app(host)
                await serve.serve(app, listening, host.loops(), on_stop=host.stop, websockets=True)
            finally:
                await host.close()

        asyncio.run(main())
    events.info("stopped")
    return 0


def write_backup(layout: statedir.Layout, file: Path) -> None:
    """Copy the host's database to a new file, whether a host runs or not."""
    backup.backup(layout.database, file)


def restore_backup(layout: statedir.Layout, file: Path) -> backup.Restored:
    """Put a backup in the place of the host's database; raises Conflict while a host runs."""
    statedir.check_local(layout.root)
    statedir.make_private(layout.root)
    statedir.make_private(layout.host)
    with database_lock(layout.host / "host.lock"):
        return backup.restore(layout.database, file)


@contextmanager
def database_lock(path: Path) -> Iterator[None]:
    """Held for as long as this process uses the database; raises Conflict while another one does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} can't be made: {error.strerror}") from error
    try:
        _take(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        raise Conflict(
            f"another host (pid {holder or 'unknown'}) uses {path.parent}",
            hint="stop it first: hakuriver down",
            code="host_running",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
