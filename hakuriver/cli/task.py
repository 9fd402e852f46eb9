"""``task submit list show logs wait kill pause resume``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from hakuriver import units
from hakuriver.cli import follow, ids, intents, output, sink
from hakuriver.cli import submit as submission
from hakuriver.cli.codes import FAILED, TIMED_OUT
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Cell, Column
from hakuriver.cli.parsing import at_least, one_of, typed
from hakuriver.errors import HakuRiverError, Unreachable
from hakuriver.lifecycle import ENDED, LIVE, State
from hakuriver.paths import host_path

PAGE = 1000
_STATES = (*(str(state) for state in State), "live", "ended")


def _submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="until it has ended; leave with its code")
    submission.options(parser)


def submit(context: Context, options: argparse.Namespace) -> int:
    """Put a command in the queue; prints the ids."""
    answer = submission.send(context, submission.request(options, context))
    tasks = answer["tasks"]
    if context.json:
        output.print_json(tasks)
    else:
        for task in tasks:
            print(task["id"], flush=True)
    refused = submission.refusals(answer)
    for error in refused:
        output.print_error(error, as_json=context.json)
    if not options.wait:
        return FAILED if refused else 0
    ended = follow.wait_ended(context, [task["id"] for task in tasks], None)
    return follow.code_of_all(ended) or (FAILED if refused else 0)


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=_states, metavar="S[,S…]", help=f"{', '.join(_STATES)}")
    parser.add_argument("--node", metavar="N")
    parser.add_argument("--owner", metavar="O", help="@me = yourself")
    parser.add_argument("--tag", metavar="TAG")
    parser.add_argument("--batch", type=at_least(1), metavar="B", help="all of one submission")
    parser.add_argument("--name", metavar="NAME")
    parser.add_argument("-n", "--limit", type=at_least(1), default=50, metavar="N", help="default 50")
    parser.add_argument("--all", action="store_true", help="as many as there are")


def _states(text: str) -> str:
    known = one_of("state", _STATES)
    return ",".join(known(part) for part in text.split(","))


def list_(context: Context, options: argparse.Namespace) -> int:
    """Tasks, newest first."""
    filters = {key: getattr(options, key) for key in ("state", "node", "owner", "tag", "batch", "name")}
    tasks: list[dict[str, Any]] = []
    cursor: str | None = None
    client = context.client()
    while options.all or len(tasks) < options.limit:
        limit = PAGE if options.all else min(PAGE, options.limit - len(tasks))
        query = filters | {"limit": limit, "cursor": cursor}
        page = client.request("GET", host_path("tasks"), query=query)
        tasks += page["items"]
        cursor = page["next"]
        if not cursor:
            break
    if context.json:
        output.print_json(tasks)
    elif context.quiet:
        for task in tasks:
            print(task["id"])
    elif not tasks and output.to_terminal():
        output.say(
            "no tasks" + (" that match" if any(filters.values()) else " yet: hakuriver run -- COMMAND")
        )
    else:
        output.table(_COLUMNS, [_row(task) for task in tasks])
    return 0


_COLUMNS = (
    Column("ID", right=True),
    Column("STATE"),
    Column("EXIT", drop=3, right=True),
    Column("NAME", drop=5),
    Column("OWNER", drop=7),
    Column("NODE", drop=2),
    Column("CORES", drop=6, right=True),
    Column("MEMORY", drop=8, right=True),
    Column("GPUS", drop=9),
    Column("AGE", drop=4, right=True),
    Column("RAN", drop=1, right=True),
    Column("COMMAND", flexible=True),
)


def _row(task: dict[str, Any]) -> list[str | Cell]:
    waiting = task["state"] == State.PENDING and task["reason"]
    command = shlex.join(task["command"])
    return [
        str(task["id"]),
        output.state_cell(task["state"]),
        _exit(task),
        task["name"] or "",
        task["owner"],
        task["node"] or "",
        units.format_cores(task["cores"]),
        units.format_size(task["memory"]) if task["memory"] else "",
        ",".join(map(str, task["gpus"])),
        output.age(task["created_at"]),
        output.age(task["started_at"], task["ended_at"]),
        f"{command}  ({task['reason']})" if waiting else command,
    ]


def _exit(task: dict[str, Any]) -> str:
    if task["signal"] is not None:
        return f"sig {task['signal']}"
    return "" if task["exit_code"] is None else str(task["exit_code"])


def _ids_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="7 · 4,6 · 4-9 · a live name · @last")


def show(context: Context, options: argparse.Namespace) -> int:
    """Everything about tasks."""
    wanted = ids.resolve(context, options.ids, ended=True)
    client = context.client()

    def get(each: int) -> Any:
        return client.request("GET", host_path("task", id=each))

    tasks, code = _each(context, wanted.ids, get)
    if tasks:
        output.one_or_many(
            single=wanted.single,
            items=tasks,
            as_json=context.json,
            quiet=context.quiet,
            name="id",
            show=_show,
        )
    return code


def _show(task: dict[str, Any]) -> None:
    size = units.format_size
    output.facts(
        [
            ("task", Cell(f"{task['id']} {task['name'] or ''}".strip(), "bold")),
            ("state", output.state_cell(task["state"])),
            ("reason", task["reason"]),
            ("error", Cell(task["error"] or "", "red")),
            ("exit", _exit(task)),
            ("command", shlex.join(task["command"])),
            ("owner", task["owner"]),
            ("tags", " ".join(task["tags"])),
            ("batch", str(task["batch"])),
            ("target", task["target"] or "anywhere"),
            ("node", task["node"]),
            ("numa", None if task["numa"] is None else str(task["numa"])),
            ("gpus", ", ".join(map(str, task["gpus"]))),
            ("cores", units.format_cores(task["cores"])),
            ("memory", size(task["memory"]) if task["memory"] else "no cap"),
            ("on node loss", None if task["on_node_loss"] == "keep" else task["on_node_loss"]),
            ("oom events", str(task["oom_events"] or "")),
            ("executor", task["executor"]),
            ("container", task["container"]),
            ("image", task["image"]),
            ("folder", task["workdir"]),
            ("asked for", f"{task['intent']} by {task['intent_by']}" if task["intent"] else None),
            ("created", output.local_time(task["created_at"])),
            ("started", output.local_time(task["started_at"])),
            ("ended", output.local_time(task["ended_at"])),
            ("ran", output.age(task["started_at"], task["ended_at"])),
        ]
    )
    attempts = task.get("attempts") or []
    if len(attempts) > 1:
        columns = [
            Column("ATTEMPT"),
            Column("STATE"),
            Column("NODE"),
            Column("ENDED"),
            Column("REASON", flexible=True),
        ]
        output.table(columns, [_attempt_row(each) for each in attempts])


def _attempt_row(attempt: dict[str, Any]) -> list[str | Cell]:
    return [
        str(attempt["attempt"]),
        output.state_cell(attempt["state"]),
        attempt["node"] or "",
        output.local_time(attempt["ended_at"]),
        attempt["error"] or attempt["reason"],
    ]


def _logs_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="7 · a live name · @last")
    parser.add_argument("--stderr", action="store_true", help="standard error instead of standard output")
    parser.add_argument("-f", "--follow", action="store_true", help="as it grows, until the task has ended")
    parser.add_argument("-n", "--lines", type=at_least(1), metavar="LINES", help="only the last ones")
    parser.add_argument("--exit-status", action="store_true", help="leave with the task's code (follows)")


def logs(context: Context, options: argparse.Namespace) -> int:
    """What a task printed."""
    task = ids.one(context, options.id, ended=True)
    stream = "stderr" if options.stderr else "stdout"
    out = sink.to_stdout(stream, as_json=context.json)
    following = options.follow or options.exit_status
    for chunk in follow.log(context, task, stream, follow=following, tail=options.lines):
        out.write(chunk)
    out.close()
    return follow.code_of_all(follow.wait_ended(context, [task], None)) if options.exit_status else 0


def _wait_options(parser: argparse.ArgumentParser) -> None:
    _ids_option(parser)
    parser.add_argument(
        "--timeout", type=typed(units.parse_duration), metavar="T", help="90, 30m, 2h; then code 124"
    )


def wait(context: Context, options: argparse.Namespace) -> int:
    """Wait until tasks have ended; leaves with the first failing one's code."""
    wanted = ids.resolve(context, options.ids, ended=True)
    try:
        ended = follow.wait_ended(context, wanted.ids, options.timeout)
    except follow.WaitedTooLong as error:
        left = error.args[0]
        output.say(f"{len(left)} of {len(wanted.ids)} still live: {', '.join(map(str, left[:20]))}")
        return TIMED_OUT
    if context.json:
        output.print_json(ended[0] if wanted.single else ended)
    elif not context.quiet and output.to_terminal():
        output.table(_COLUMNS, [_row(task) for task in ended])
    return follow.code_of_all(ended)


def _kill_options(parser: argparse.ArgumentParser) -> None:
    _ids_option(parser)
    parser.add_argument(
        "--grace",
        type=typed(units.parse_duration),
        metavar="T",
        help="time from TERM to KILL; 0 = KILL at once",
    )
    parser.add_argument("--undo", action="store_true", help="take back a kill that is still held")


def kill(context: Context, options: argparse.Namespace) -> int:
    """End tasks: TERM, and KILL after a grace. What has ended is left as it is."""
    return _act(context, options.ids, "unkill" if options.undo else "kill", grace=options.grace)


def pause(context: Context, options: argparse.Namespace) -> int:
    """Stop tasks for a while; they keep their memory."""
    return _act(context, options.ids, "pause")


def resume(context: Context, options: argparse.Namespace) -> int:
    """Let paused tasks go on."""
    return _act(context, options.ids, "resume")


def _requeue_options(parser: argparse.ArgumentParser) -> None:
    _ids_option(parser)
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

    tasks, code = _each(context, wanted.ids, move)
    if context.json:
        if tasks:
            output.print_json(tasks)
        return code
    for task in tasks:
        print(task["id"] if context.quiet else f"task {task['id']}: {_outcome(task, 'requeue')}")
    return code


def _act(context: Context, words: Sequence[str], verb: str, *, grace: float | None = None) -> int:
    wanted = ids.resolve(context, words)
    tasks, errors = intents.tell(context.client(), verb, wanted.ids, grace=grace)
    code = _outcome_code(context, len(tasks), errors)
    if context.json:
        if tasks:
            output.print_json(tasks)
        return code
    for task in tasks:
        if context.quiet:
            print(task["id"])
        else:
            print(f"task {task['id']}: {_outcome(task, verb)}")
    return code


def _outcome(task: dict[str, Any], verb: str) -> str:
    state = output.paint(task["state"], output.STYLES.get(task["state"], ""))
    if task["state"] in ENDED:
        return f"has ended ({state})"
    return f"{state}, {verb} on its way" if task["intent"] == verb and task["state"] in LIVE else state


def _each(
    context: Context, wanted: Sequence[int], act: Callable[[int], Any]
) -> tuple[list[dict[str, Any]], int]:
    """Act on each id; what was done, and the exit code."""
    done: list[dict[str, Any]] = []
    errors: list[HakuRiverError] = []
    for each in wanted:
        try:
            done.append(act(each))
        except HakuRiverError as error:
            if isinstance(error, Unreachable):
                raise
            errors.append(error)
    return done, _outcome_code(context, len(done), errors)


def _outcome_code(context: Context, done: int, errors: Sequence[HakuRiverError]) -> int:
    """The exit code for several tasks of which ``done`` went well; shows each error, raises a lonely one."""
    if not errors:
        return 0
    if not done and len(errors) == 1:
        raise errors[0]
    for error in errors:
        output.print_error(error, as_json=context.json)
    codes = {error.exit_code for error in errors}
    return codes.pop() if not done and len(codes) == 1 else FAILED


VERBS = {
    "task submit": Verb(
        submit,
        _submit_options,
        takes_command=True,
        examples=(
            "hakuriver task submit --cores 4 --memory 8G -- python train.py --lr 0.1",
            "hakuriver task submit --target n1::0 --target n2::0,1 --env SEED=1 -- ./run.sh",
            "hakuriver task submit --image python:3.12 --wait -- python -V",
        ),
    ),
    "task list": Verb(
        list_,
        _list_options,
        examples=("hakuriver task list --state live", "hakuriver task list --owner @me -n 10"),
    ),
    "task show": Verb(
        show, _ids_option, examples=("hakuriver task show @last", "hakuriver --json task show 4-9")
    ),
    "task logs": Verb(
        logs, _logs_options, examples=("hakuriver task logs -f @last", "hakuriver task logs 7 -n 100")
    ),
    "task wait": Verb(wait, _wait_options, examples=("hakuriver task wait 4-9 --timeout 2h",)),
    "task kill": Verb(
        kill, _kill_options, examples=("hakuriver task kill 7", "hakuriver task kill 4-9 --grace 30s")
    ),
    "task pause": Verb(pause, _ids_option),
    "task resume": Verb(resume, _ids_option),
    "task requeue": Verb(
        requeue, _requeue_options, examples=("hakuriver task requeue 7", "hakuriver task requeue 4-9 --force")
    ),
}
