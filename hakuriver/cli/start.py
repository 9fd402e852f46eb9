"""What starts daemons and the terminal interface: the only module that imports them, inside its functions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hakuriver import config, endpoint, statedir
from hakuriver.api import Client
from hakuriver.cli import output
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.parsing import at_least
from hakuriver.errors import UsageError
from hakuriver.paths import host_path


def plain(context: Context, _: argparse.Namespace) -> int:
    """``hakuriver`` alone: the terminal interface of the cluster that runs; starts no daemon."""
    found = context.endpoint()
    context.client().request("GET", host_path("cluster"), timeout=5)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the terminal interface needs a terminal", hint="hakuriver --help lists all commands"
        )
    return tui(found)


def tui(found: endpoint.Endpoint) -> int:
    """The terminal interface, until somebody leaves it."""
    from tui.app import run

    return run(found)


def stop_strays(state_dir: Path) -> int:
    """End daemons whose supervisor is gone; how many there were."""
    from daemons.supervisor import stop_strays as stop

    return stop(state_dir)


def _daemon_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="F", help="another config file")
    parser.add_argument("--port", type=at_least(0), metavar="N", help="port to listen on")
    parser.add_argument("--bind", metavar="IP", help="address to listen on")
    parser.add_argument(
        "--insecure-bind", action="store_true", help="listen on a trusted network without TLS"
    )
    parser.add_argument("--embedded", action="store_true", help="as a part of a cluster of one machine")


def _runner_options(parser: argparse.ArgumentParser) -> None:
    _daemon_options(parser)
    parser.add_argument("--name", metavar="N", help="name of this node (default: the host name)")


def _host_options(parser: argparse.ArgumentParser) -> None:
    _daemon_options(parser)
    copies = parser.add_mutually_exclusive_group()
    copies.add_argument(
        "--backup", metavar="FILE", help="copy the database to a new file, whether the host runs or not"
    )
    copies.add_argument(
        "--restore", metavar="FILE", help="put a backup in the database's place, while the host is stopped"
    )


def host(context: Context, options: argparse.Namespace) -> int:
    """The host daemon, in the foreground; or a copy of its database."""
    if context.host:
        raise UsageError(
            "hakuriver host takes no --host: it is the host", hint="--bind IP and --port N say where"
        )
    settings, layout = _prepare(context, options, "host")
    if options.backup is not None:
        return _backup(context, layout, _file(options.backup))
    if options.restore is not None:
        return _restore(context, layout, _file(options.restore))
    from daemons.host.main import run

    return run(settings, layout, embedded=options.embedded, insecure_bind=options.insecure_bind)


def _file(text: str) -> Path:
    if not text:
        raise UsageError("--backup and --restore need the name of a file")
    return Path(text).expanduser().absolute()


def _backup(context: Context, layout: statedir.Layout, file: Path) -> int:
    from daemons.host.main import write_backup

    write_backup(layout, file)
    if context.json:
        output.print_json({"backup": str(file)})
    elif not context.quiet:
        print(f"backup written: {file}")
    return 0


def _restore(context: Context, layout: statedir.Layout, file: Path) -> int:
    from daemons.host.main import restore_backup

    done = restore_backup(layout, file)
    kept = str(done.replaced) if done.replaced else None
    if context.json:
        output.print_json({"epoch": done.epoch, "replaced": kept})
    elif not context.quiet:
        print(f"restored from {file}" + (f"; the database before is {kept}" if kept else ""))
    return 0


def runner(context: Context, options: argparse.Namespace) -> int:
    """The runner daemon, in the foreground."""
    settings, layout = _prepare(context, options, "runner")
    url = Client(context.host or _host_url(settings), "").url
    from daemons.runner.main import run

    return run(settings, layout, host_url=url, embedded=options.embedded, insecure_bind=options.insecure_bind)


def _host_url(settings: config.Settings) -> str:
    """Where a runner finds its host when no flag says so."""
    address = settings.network.host_reachable_address
    return f"http://{f'[{address}]' if ':' in address else address}:{settings.network.host_port}"


def _prepare(
    context: Context, options: argparse.Namespace, role: str
) -> tuple[config.Settings, statedir.Layout]:
    flags = {
        f"network.{role}_port": options.port,
        f"network.{role}_bind_ip": options.bind,
        "node.name": getattr(options, "name", None),
        "paths.state_dir": str(Path(context.state_dir).expanduser().absolute())
        if context.state_dir
        else None,
    }
    path = Path(options.config) if options.config else None
    settings = config.load(path, environ=context.environ, flags=flags)
    root = Path(settings.paths.state_dir).expanduser() if context.state_dir else None
    layout = statedir.layout(root) if root else endpoint.state_layout(settings, context.environ)
    statedir.check_local(layout.root)
    statedir.make_private(layout.root)
    return settings, layout


VERBS = {
    "": Verb(plain),
    "host": Verb(
        host,
        _host_options,
        examples=(
            "hakuriver host --port 8000",
            "hakuriver host --backup hakuriver.backup",
            "hakuriver host --restore hakuriver.backup",
        ),
    ),
    "runner": Verb(
        runner, _runner_options, examples=("hakuriver runner --host http://10.0.0.1:8000 --bind 10.0.0.2",)
    ),
}
