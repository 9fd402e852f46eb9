"""``up``: a cluster on this machine, left behind running, found again."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hakuriver import config, endpoint, statedir
from hakuriver.api import Client
from hakuriver.cli import logout, start
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.local import STOP_DEADLINE, supervised, terminate_supervisor
from hakuriver.cli.output import moment, paint, print_json, say
from hakuriver.cli.parsing import at_least
from hakuriver.errors import Conflict, HakuRiverError, Unauthenticated, Unreachable, UsageError
from hakuriver.lifecycle import NodeState
from hakuriver.paths import host_path
from hakuriver.statedir import Layout

DEADLINE = 45.0
"""Seconds from the start of the supervisor to a node that is online."""
CRASHES = 3
_LOG_LINES = 12
_OWN_ERROR = "hakuriver: "


def _up_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--headless", action="store_true", help="return when it runs, open no terminal interface"
    )
    parser.add_argument(
        "--port", type=at_least(1), metavar="N", help="port of the host (default 8000 or a free one)"
    )
    parser.add_argument("--config", metavar="F", help="another config file")


def up(context: Context, options: argparse.Namespace) -> int:
    """Start a cluster, or find the one that runs; then the terminal interface."""
    if sys.platform != "linux":
        raise UsageError(
            "daemons run on Linux only", hint="here, use a host elsewhere: --host URL --token-file F"
        )
    path = Path(options.config).absolute() if options.config else None
    settings = config.load(path, environ=context.environ)
    layout = _folder(context, settings)
    for token in (layout.user_token, layout.node_token, layout.host_token):
        statedir.ensure_token(token)
    started = not supervised(layout)
    if started:
        _start(layout, settings, path or _config_file(context), options.port)
    else:
        _same_port(layout, options.port)
        _await(layout, None)
    found = endpoint.local(layout.root.parent)
    headless = options.headless or context.json or not (sys.stdin.isatty() and sys.stdout.isatty())
    _announce(context, found, started=started)
    return 0 if headless else start.tui(found)


def _start(layout: Layout, settings: config.Settings, path: Path | None, port: int | None) -> None:
    """Start it; once more with other ports where somebody took ours in between."""
    start.stop_strays(layout.root.parent)  # they hold the ports that we would like to have again
    for last in (False, False, True):
        began = time.time()
        ports = _ports(layout, settings, port)
        _launch(layout, settings, path, ports)
        try:
            _await(layout, began)
            return
        except Unreachable:
            if last or supervised(layout) or not _met_a_conflict(layout):
                raise


def _met_a_conflict(layout: Layout) -> bool:
    """Whether a daemon ended because something of its own was taken: a port, most of all."""
    parts = (endpoint.read_cluster(layout).get(part, {}) for part in ("host", "runner"))
    return any(part.get("last_exit") == Conflict.exit_code for part in parts)


def _config_file(context: Context) -> Path | None:
    return config.config_path(context.environ).absolute() if context.environ.get("HAKURIVER_CONFIG") else None


def _folder(context: Context, settings: config.Settings) -> Layout:
    named = context.state_dir or context.environ.get("HAKURIVER_STATE_DIR") or settings.paths.state_dir
    root = Path(named).expanduser() if named else statedir.default_state_dir(context.environ)
    root = root.absolute()
    try:
        statedir.check_local(root)
    except HakuRiverError as error:
        if named:
            raise
        root = statedir.local_proposal()
        say(f"{error.message}; using {root}")
    if not root.exists() or root == statedir.local_proposal():
        statedir.make_private(root)
    layout = statedir.layout(root)
    for folder in (layout.root, layout.host, layout.runner):
        statedir.make_private(folder)
    return layout


def _same_port(layout: Layout, wanted: int | None) -> None:
    running = endpoint.read_cluster(layout).get("ports", {}).get("host")
    if wanted and running and wanted != running:
        raise Conflict(
            f"this cluster runs already, on port {running}", hint="hakuriver down, then up --port again"
        )


def choose_port(
    candidates: list[int | None], taken: set[int], is_free: Callable[[int], bool], any_free: Callable[[], int]
) -> int:
    """The first candidate that is free, else any free port (pure)."""
    for port in candidates:
        if port and port not in taken and is_free(port):
            return port
    return any_free()


def _ports(layout: Layout, settings: config.Settings, wanted: int | None) -> tuple[int, int]:
    network = settings.network
    before = endpoint.read_cluster(layout).get("ports", {})
    fixed = wanted or (network.host_port if "network.host_port" in settings.origin else None)
    if fixed and not _free(network.host_bind_ip, fixed):
        raise Conflict(
            f"port {fixed} on {network.host_bind_ip} is in use",
            hint="choose another with --port, or leave it out for a free one",
            code="port_in_use",
        )
    host = fixed or choose_port(
        [before.get("host"), network.host_port],
        set(),
        lambda port: _free(network.host_bind_ip, port),
        lambda: _any_free(network.host_bind_ip),
    )
    runner = choose_port(
        [before.get("runner"), network.runner_port],
        {host},
        lambda port: _free(network.runner_bind_ip, port),
        lambda: _any_free(network.runner_bind_ip),
    )
    return host, runner


def _bound(address: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return int(probe.getsockname()[1])


def _free(address: str, port: int) -> bool:
    try:
        return _bound(address, port) == port
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return False
        raise UsageError(f"can't listen on {address}:{port}: {error.strerror}") from error
    except OverflowError:
        raise UsageError(f"{port} is not a port") from None


def _any_free(address: str) -> int:
    return _bound(address, 0)


def _url(address: str, port: int) -> str:
    wild = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}  # noqa: S104
    name = wild.get(address) or (f"[{address}]" if ":" in address else address)
    return f"http://{name}:{port}"


def _launch(layout: Layout, settings: config.Settings, path: Path | None, ports: tuple[int, int]) -> None:
    host, runner = ports
    argv = [sys.executable, "-m", "daemons.supervisor", "--state-dir", str(layout.root.parent)]
    argv += ["--host-port", str(host), "--host-url", _url(settings.network.host_bind_ip, host)]
    argv += ["--runner-port", str(runner), "--runner-url", _url(settings.network.runner_bind_ip, runner)]
    if path:
        argv += ["--config", str(path)]
    log = os.open(
        layout.root / "supervisor.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            close_fds=True,
        )
    finally:
        os.close(log)


def _await(layout: Layout, began: float | None) -> None:
    """Wait until the host answers and a node is online; raises Unreachable that names the missing part."""
    give_up = time.monotonic() + DEADLINE
    missing = "supervisor"
    while time.monotonic() < give_up:
        missing = _missing(layout, began)
        if not missing:
            return
        crashes = endpoint.read_cluster(layout).get(missing, {}).get("crashes", 0)
        if began is not None and crashes >= CRASHES and _written_since(layout, began):
            terminate_supervisor(layout, STOP_DEADLINE)
            raise Unreachable(
                f"the {missing} can't start{_last_words(layout, missing)}", code=f"{missing}_failed"
            )
        time.sleep(0.1)
    raise Unreachable(
        f"the {missing} is not ready after {DEADLINE:.0f} s{_last_words(layout, missing)}",
        hint="hakuriver status shows whether it comes; hakuriver down stops it",
        code=f"{missing}_failed",
    )


def _written_since(layout: Layout, began: float) -> bool:
    try:
        return layout.cluster_file.stat().st_mtime >= began - 0.05
    except FileNotFoundError:
        return False


def _missing(layout: Layout, began: float | None) -> str:
    """Which part is not there yet, empty when all are. After a restart only fresh signs of a node count."""
    if not supervised(layout) or (began is not None and not _written_since(layout, began)):
        return "supervisor"
    try:
        found = endpoint.local(layout.root.parent)
        nodes = Client(found.url, found.token, timeout=3).request("GET", host_path("nodes"))
    except (Unreachable, Unauthenticated):  # not there yet, or somebody else's
        return "host"
    fresh = datetime.fromtimestamp(began or 0, UTC)
    for node in nodes:
        seen = moment(node["seen_at"])
        if node["state"] == NodeState.ONLINE and seen is not None and seen >= fresh:
            return ""
    return "runner"


def _last_words(layout: Layout, part: str) -> str:
    logs = {"host": layout.host / "host.log", "runner": layout.runner / "runner.log"}
    log = logs.get(part, layout.root / "supervisor.log")
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    except FileNotFoundError:
        return f"; it has written no log ({log})"
    own = [place for place, line in enumerate(lines) if line.startswith(_OWN_ERROR)]
    if own and all(line.startswith("  ") for line in lines[own[-1] + 1 :]):  # it said why, in one line
        why, *hints = lines[own[-1] :]
        return "\n".join([f": {why.removeprefix(_OWN_ERROR)}", *hints, f"  its log: {log}"])
    return "".join([f"; the end of {log}:", *(f"\n    {line}" for line in lines)])


def _announce(context: Context, found: endpoint.Endpoint, *, started: bool) -> None:
    assert found.state is not None
    cluster = endpoint.read_cluster(found.state)
    if context.json:
        shown = {"state_dir": str(found.state.root.parent), "started": started}
        print_json(shown | {part: _url_and_pid(cluster, part) for part in ("host", "runner")})
        return
    if context.quiet:
        return
    print(paint(f"HakuRiver {'started' if started else 'runs already'}: {found.url}", "green"))
    print(f"state folder: {found.state.root.parent}")
    if line := _paste_line(context, found):
        print(f"in another terminal, first paste:\n  {line}")
    print("hakuriver run -- COMMAND runs something, hakuriver down stops it")
    if ending := logout.warning(context.environ):
        say(ending)


def _url_and_pid(cluster: dict[str, Any], part: str) -> dict[str, Any]:
    return {key: cluster.get(part, {}).get(key) for key in ("url", "pid")}


def _paste_line(context: Context, found: endpoint.Endpoint) -> str:
    """What a fresh terminal like this one needs to run ``hakuriver`` on this cluster; empty for nothing."""
    assert found.state is not None
    variables = []
    ours = Path(sys.executable).with_name("hakuriver")
    if ours.exists() and shutil.which("hakuriver", path=context.environ.get("PATH", "")) != str(ours):
        variables.append(f"PATH={shlex.quote(str(ours.parent))}:$PATH")
    environ = {name: value for name, value in context.environ.items() if name != "HAKURIVER_STATE_DIR"}
    try:
        found_without = endpoint.resolve(environ=environ).url == found.url
    except HakuRiverError:
        found_without = False
    if not found_without:
        variables.append(f"HAKURIVER_STATE_DIR={shlex.quote(str(found.state.root.parent))}")
    return f"export {' '.join(variables)}" if variables else ""


VERBS = {
    "up": Verb(up, _up_options, examples=("hakuriver up", "hakuriver up --headless --state-dir /tmp/try")),
}
