"""Which cluster a command talks to, and with which credential.

``--host/--token-file``, ``--state-dir`` > ``HAKURIVER_HOST`` + ``HAKURIVER_TOKEN`` > ``HAKURIVER_STATE_DIR``
> a config whose host is not loopback > the default local state folder.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hakuriver import config, statedir
from hakuriver.errors import ConfigError, HakuRiverError, NotAllowed, Unreachable, UsageError

_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send requests. ``state`` is set for a cluster of this machine."""

    url: str
    token: str
    state: statedir.Layout | None = None

    @property
    def label(self) -> str:
        """How people tell clusters apart: the state folder of a local one, else the address."""
        return f"local ({self.state.root.parent})" if self.state else self.url


class NoCluster(Unreachable):
    """No local cluster was ever started there."""

    code = "no_cluster"


def resolve(
    *,
    host: str | None = None,
    token_file: str | None = None,
    state_dir: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """The endpoint by the order above; raises NoCluster, UsageError or ConfigError."""
    if host and state_dir:
        raise UsageError("--host and --state-dir name two clusters; give one of them")
    if host:
        return Endpoint(host, _token(token_file, environ))
    if token_file:
        raise UsageError("--token-file goes with --host")
    if state_dir:
        return local(Path(state_dir).expanduser())
    if environ.get("HAKURIVER_HOST"):
        return Endpoint(environ["HAKURIVER_HOST"], _token(None, environ))
    if environ.get("HAKURIVER_STATE_DIR"):
        return local(Path(environ["HAKURIVER_STATE_DIR"]).expanduser())
    settings = config.load(environ=environ)
    if not is_loopback(settings.network.host_reachable_address):
        folder = settings.paths.credentials_dir or str(state_layout(settings, environ).credentials)
        token = statedir.read_token(Path(folder).expanduser() / "user.token")
        return Endpoint(
            f"http://{settings.network.host_reachable_address}:{settings.network.host_port}", token
        )
    return local(state_root(settings, environ))


def state_root(settings: config.Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """The state folder that flags and files don't name."""
    if environ.get("HAKURIVER_STATE_DIR"):
        return Path(environ["HAKURIVER_STATE_DIR"]).expanduser()
    if settings.paths.state_dir:
        return Path(settings.paths.state_dir).expanduser()
    return statedir.default_state_dir(environ)


def state_layout(settings: config.Settings, environ: Mapping[str, str] = os.environ) -> statedir.Layout:
    """This machine's part of it."""
    return statedir.layout(state_root(settings, environ))


def is_loopback(name: str) -> bool:
    """Whether an address is this machine's own loopback."""
    if name in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def local(state_dir: Path) -> Endpoint:
    """The cluster whose state lies in a folder of this machine."""
    layout = statedir.layout(state_dir)
    url = read_cluster(layout).get("host", {}).get("url")
    if not isinstance(url, str) or not url:
        raise NoCluster(f"there is no cluster in {state_dir}", hint="hakuriver up starts one")
    _refuse_stranger(url, layout.cluster_file.stat().st_uid)
    return Endpoint(url, statedir.read_token(layout.user_token), layout)


def _refuse_stranger(url: str, owner: int) -> None:
    """A token must not reach another user's program that took our port while our host was down."""
    port = urlsplit(url).port
    try:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    except OSError:
        return
    for row in rows:
        address, state, uid = row[1], row[3], int(row[7])
        if state == _LISTEN and int(address.rpartition(":")[2], 16) == port and uid not in (0, owner):
            raise NotAllowed(
                f"port {port} of this cluster is held by another user (uid {uid})",
                hint="hakuriver down, then hakuriver up, chooses another",
                code="foreign_port",
            )


def read_cluster(layout: statedir.Layout) -> dict[str, Any]:
    """What the supervisor last wrote: ``host`` and ``runner`` with url, pid; empty when there is nothing."""
    try:
        found = json.loads(layout.cluster_file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{layout.cluster_file} can't be read: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise ConfigError(
            f"{layout.cluster_file} can't be read: it is not what a supervisor writes",
            hint="remove it; the supervisor, or else hakuriver up, writes it anew",
        )
    return found


def _token(token_file: str | None, environ: Mapping[str, str]) -> str:
    if token_file:
        return statedir.read_token(Path(token_file).expanduser())
    if given := environ.get("HAKURIVER_TOKEN"):
        if not given.isascii() or not given.isprintable():
            raise UsageError("HAKURIVER_TOKEN holds no token", hint="it is one line of letters and digits")
        return given
    raise _no_token()


def _no_token() -> HakuRiverError:
    return UsageError("a host was named without a credential", hint="give --token-file F or HAKURIVER_TOKEN")
