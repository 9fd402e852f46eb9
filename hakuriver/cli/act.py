"""``task kill pause resume hold release requeue resubmit``."""

from __future__ import annotations

import argparse
from typing import Any

from hakuriver import units
from hakuriver.cli import batch, ids, intents, output, several
from hakuriver.cli import submit as submission
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.parsing import typed
from hakuriver.errors import HakuRiverError
from hakuriver.lifecycle import ENDED, LIVE, State
from hakuriver.paths import host_path

_ON_NODE = ",".join((State.ASSIGNED, State.PREPARING, State.RUNNING, State.PAUSED))
_STATES = {
    "kill": "live",
    "unkill": "live",
    "pause": _ON_NODE,
    "resume": _ON_NODE,
    "hold": str(State.PENDING),
    "release": str(State.PENDING),
}
"""Which tasks of a batch are told: those to which it can mean something."""


def _kill_options(parser: argparse.ArgumentParser) -> None:
    batch.ids_or_batch(parser)
    parser.add_argument(
        "--grace",
        type=typed(units.parse_duration),
        metavar="T",
        help="time from TERM to KILL; 0 = KILL at once",
    )
    parser.add_argument("--undo", action="store_true", help="take back a kill that is still held")


def kill(context: Context, options: argparse.Namespace) -> int:
    """End tasks: TERM, and KILL after a grace. What has ended is left as it is."""
    return _tell(context, options, "unkill" if options.undo else "kill", grace=options.grace)


def pause(context: Context, options: argparse.Namespace) -> int:
    """Stop tasks for a while; they keep their memory."""
    return _tell(context, options, "pause")


def resume(context: Context, options: argparse.Namespace) -> int:
    """Let paused tasks go on."""
    return _tell(context, options, "resume")


def hold(context: Context, options: argparse.Namespace) -> int:
    """Keep waiting tasks from starting."""
    return _tell(context, options, "hold")


def release(context: Context, options: argparse.Namespace) -> int:
    """Let tasks start that are on hold."""
    return _tell(context, options, "release")


def _tell(context: Context, options: argparse.Namespace, verb: str, *, grace: float | None = None) -> int:
    wanted = batch.chosen(context, options, states=_STATES[verb])
    tasks, errors = intents.tell(context.client(), verb, wanted.ids, grace=grace)
    if options.batch is not None:  # those that changed since they were listed need no telling
        errors = [error for error in errors if error.instance_code not in _TOO_LATE]
    code = several.outcome_code(context, len(tasks), errors)
    if context.json:
        if tasks or not errors:
            output.print_json(tasks)
    elif context.quiet:
        for task in tasks:
            print(task["id"])
    elif options.batch is not None:
        print(batch.line(batch.view(context.client(), batch.number(context, options.batch))))
    else:
        for task in tasks:
            print(f"task {task['id']}: {_outcome(task, verb)}")
    return code


_TOO_LATE = frozenset({"ended", "not_running", "stopping"})


def _outcome(task: dict[str, Any], verb: str) -> str:
    state = output.paint(task["state"], output.STYLES.get(task["state"], ""))
    if task["state"] in ENDED:
        return f"has ended ({state})"
    if task["state"] == State.PENDING and task.get("on_hold"):
        return f"{state}, on hold"
    return f"{state}, {verb} on its way" if task["intent"] == verb and task["state"] in LIVE else state


def _requeue_options(parser: argparse.ArgumentParser) -> None:
    ids.option(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="even if one may still run there; it is ended when its node is back",
    )


def requeue(context: Context, options: argparse.Namespace) -> int:
    """Move tasks away from a node that is lost: they wait for another place."""
    wanted = ids.resolve(context, options.ids)
    client = context.client()

    def move(each: int) -> Any:
        return client.request("POST", host_path("requeue", id=each), body={"force": options.force})

    tasks, code = several.each(context, wanted.ids, move)
    if context.json:
        if tasks:
            output.print_json(tasks)
        return code
    for task in tasks:
        print(task["id"] if context.quiet else f"task {task['id']}: {_outcome(task, 'requeue')}")
    return code


def resubmit(context: Context, options: argparse.Namespace) -> int:
    """Submit the same once more; prints the new ids."""
    wanted = ids.resolve(context, options.ids, ended=True)

    def again(each: int) -> Any:
        return submission.post(context, host_path("resubmit", id=each), {})

    answers, code = several.each(context, wanted.ids, again)
    tasks = [task for answer in answers for task in answer["tasks"]]
    refused: list[HakuRiverError] = [error for answer in answers for error in submission.refusals(answer)]
    if context.json:
        if tasks:
            output.print_json(tasks)
    else:
        for task in tasks:
            print(task["id"], flush=True)
    return code or several.outcome_code(context, len(tasks), refused)


VERBS = {
    "task kill": Verb(
        kill,
        _kill_options,
        examples=(
            "hakuriver task kill 7",
            "hakuriver task kill 4-9 --grace 30s",
            "hakuriver task kill --batch @last",
        ),
    ),
    "task pause": Verb(pause, batch.ids_or_batch),
    "task resume": Verb(resume, batch.ids_or_batch),
    "task hold": Verb(
        hold, batch.ids_or_batch, examples=("hakuriver task hold 7", "hakuriver task hold --batch 12")
    ),
    "task release": Verb(release, batch.ids_or_batch),
    "task requeue": Verb(
        requeue, _requeue_options, examples=("hakuriver task requeue 7", "hakuriver task requeue 4-9 --force")
    ),
    "task resubmit": Verb(resubmit, ids.option, examples=("hakuriver task resubmit @last",)),
}
