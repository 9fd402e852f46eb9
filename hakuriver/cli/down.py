"""``down``: stop the cluster of this machine; tasks run on unless they are killed first."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from hakuriver import config, endpoint, statedir
from hakuriver.api import Client
from hakuriver.cli import ids, start
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.follow import WaitedTooLong, wait_ended
from hakuriver.cli.intents import tell
from hakuriver.cli.local import STOP_DEADLINE, supervised, terminate_supervisor
from hakuriver.cli.output import print_json
from hakuriver.errors import Conflict, HakuRiverError, Unreachable
from hakuriver.lifecycle import State
from hakuriver.statedir import Layout

KILL_DEADLINE = 60.0


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kill", action="store_true", help="end all live tasks first")


def down(context: Context, options: argparse.Namespace) -> int:
    """Stop the daemons; tasks run on unless ``--kill``."""
    layout = _layout(context)
    if context.host or not layout.root.is_dir():
        where = context.host or str(layout.root.parent)
        raise endpoint.NoCluster(f"there is no cluster of this machine in {where}")
    live = _live(layout)
    if options.kill:
        live = _kill_all(replace(context, state_dir=str(layout.root.parent)), live)
    stopped = supervised(layout)
    if not terminate_supervisor(layout, STOP_DEADLINE):
        raise Conflict("the supervisor does not end", hint=f"its log: {layout.root / 'supervisor.log'}")
    strays = start.stop_strays(layout.root.parent)
    if context.json:
        print_json({"stopped": stopped or strays > 0, "tasks": live})
    elif not context.quiet:
        if stopped or strays:
            print("HakuRiver stopped")
            _say_what_lives(live)
        else:
            print("HakuRiver was not running")
    return 0


def _layout(context: Context) -> Layout:
    if context.state_dir:
        return statedir.layout(Path(context.state_dir).expanduser().absolute())
    root = endpoint.state_root(config.load(environ=context.environ), context.environ)
    layout = statedir.layout(root.absolute())
    if not layout.root.is_dir() and not context.environ.get("HAKURIVER_STATE_DIR"):
        proposal = statedir.layout(statedir.local_proposal())
        return proposal if proposal.root.is_dir() else layout
    return layout


def _live(layout: Layout) -> dict[str, list[int]] | None:
    """Ids of live tasks by state, None when the host doesn't say."""
    try:
        found = endpoint.local(layout.root.parent)
        return ids.live(Client(found.url, found.token, timeout=5))
    except HakuRiverError:  # not running, or somebody else's on that port
        return None


def _kill_all(context: Context, live: dict[str, list[int]] | None) -> dict[str, list[int]]:
    if live is None:
        raise Unreachable(
            "the host doesn't answer, so no task can be killed", hint="hakuriver up, then down --kill"
        )
    wanted = [each for group in live.values() for each in group]
    tell(context.client(), "kill", wanted)
    try:
        wait_ended(context, wanted, KILL_DEADLINE)
    except WaitedTooLong as error:
        raise Conflict(
            f"{_count(len(error.args[0]), 'task')} live after {KILL_DEADLINE:.0f} s, nothing is stopped",
            hint="hakuriver down without --kill leaves them running",
        ) from error
    return {}


def _say_what_lives(live: dict[str, list[int]] | None) -> None:
    if live is None:
        print("tasks that still run are found again by hakuriver up")
        return
    waiting = len(live.get(State.PENDING, []))
    running = sum(map(len, live.values())) - waiting
    if running:
        print(
            f"{_count(running, 'task')} still run{'s' if running == 1 else ''} on; hakuriver up finds "
            f"{'it' if running == 1 else 'them'} again"
        )
    if waiting:
        print(f"{_count(waiting, 'task')} wait{'s' if waiting == 1 else ''} in the queue")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


VERBS = {"down": Verb(down, _options, examples=("hakuriver down", "hakuriver down --kill"))}
