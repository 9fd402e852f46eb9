"""``task submit list show logs wait``."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from hakuriver import units
from hakuriver.cli import batch, fetch, follow, ids, output, several, sink, submit_options, wishes
from hakuriver.cli import submit as submission
from hakuriver.cli.codes import FAILED, TIMED_OUT
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Cell, Column
from hakuriver.cli.parsing import at_least, one_of, typed
from hakuriver.errors import UsageError
from hakuriver.lifecycle import State
from hakuriver.paths import host_path

_STATES = (*(str(state) for state in State), "live", "ended")


def _submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="until it has ended; leave with its code")
    submit_options.add(parser, many=True)


def submit(context: Context, options: argparse.Namespace) -> int:
    """Put a command in the queue; prints the ids."""
    answer = submission.send(context, submission.request(options, context))
    tasks = answer["tasks"]
    if context.json:
        output.print_json(tasks)
    else:
        for task in tasks:
            print(task["id"], flush=True)
        if len(tasks) > 1 and not context.quiet:
            output.say(f"batch {answer['batch']}: {len(tasks)} tasks")
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
    batch.option(parser)
    parser.add_argument("--name", metavar="NAME")
    parser.add_argument("-n", "--limit", type=at_least(1), default=50, metavar="N", help="default 50")
    parser.add_argument("--all", action="store_true", help="as many as there are")


def _states(text: str) -> str:
    known = one_of("state", _STATES)
    return ",".join(known(part) for part in text.split(","))


def list_(context: Context, options: argparse.Namespace) -> int:
    """Tasks, newest first."""
    filters = {key: getattr(options, key) for key in ("state", "node", "owner", "tag", "batch", "name")}
    if options.batch is not None:
        filters["batch"] = batch.number(context, options.batch)
    tasks = _pages(context, filters, None if options.all else options.limit)
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
        if options.batch is not None and output.to_terminal():
            print(batch.line(batch.view(context.client(), filters["batch"])))
    return 0


def _pages(context: Context, filters: dict[str, Any], most: int | None) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = []
    cursor: str | None = None
    client = context.client()
    while most is None or len(tasks) < most:
        limit = batch.PAGE if most is None else min(batch.PAGE, most - len(tasks))
        page = client.request("GET", host_path("tasks"), query=filters | {"limit": limit, "cursor": cursor})
        tasks += page["items"]
        cursor = page["next"]
        if not cursor:
            break
    return tasks


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


def show(context: Context, options: argparse.Namespace) -> int:
    """Everything about tasks, or a batch in one line."""
    if options.batch is not None:
        return _show_batch(context, options)
    wanted = batch.chosen(context, options, ended=True)
    tasks, errors = fetch.tasks(context.client(), wanted.ids)
    code = several.outcome_code(context, len(tasks), errors)
    several.show(context, tasks, _show, single=wanted.single, name="id")
    return code


def _show_batch(context: Context, options: argparse.Namespace) -> int:
    if options.ids:
        raise UsageError("--batch and ids were given", hint="give one of the two")
    found = batch.view(context.client(), batch.number(context, options.batch))
    if context.json:
        output.print_json(found)
    else:
        print(found["batch"] if context.quiet else batch.line(found))
    return 0


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
            ("batch", wishes.batch(task)),
            ("target", task["target"] or "anywhere"),
            ("node", task["node"]),
            ("numa", None if task["numa"] is None else str(task["numa"])),
            ("gpus", ", ".join(map(str, task["gpus"]))),
            ("cores", units.format_cores(task["cores"])),
            ("memory", size(task["memory"]) if task["memory"] else "no cap"),
            *wishes.facts(task),
            ("on node loss", None if task["on_node_loss"] == "keep" else task["on_node_loss"]),
            ("oom events", str(task["oom_events"] or "")),
            ("executor", task["executor"]),
            ("container", task["container"]),
            ("version", None if task.get("version") is None else str(task["version"])),
            ("image", task["image"]),
            ("digest", task.get("image_digest")),
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
            Column("ATTEMPT", right=True),
            Column("STATE"),
            Column("EXIT", right=True),
            Column("NODE"),
            Column("STARTED", drop=1),
            Column("RAN", drop=2, right=True),
            Column("REASON", flexible=True),
        ]
        output.table(columns, [_attempt_row(each) for each in attempts])


def _attempt_row(attempt: dict[str, Any]) -> list[str | Cell]:
    return [
        str(attempt["attempt"]),
        output.state_cell(attempt["state"]),
        _exit(attempt),
        attempt["node"] or "",
        output.local_time(attempt["started_at"]),
        output.age(attempt["started_at"], attempt["ended_at"]),
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
    batch.ids_or_batch(parser)
    parser.add_argument(
        "--timeout", type=typed(units.parse_duration), metavar="T", help="90, 30m, 2h; then code 124"
    )


def wait(context: Context, options: argparse.Namespace) -> int:
    """Wait until tasks have ended; leaves with the first failing one's code."""
    wanted = batch.chosen(context, options, ended=True)
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


VERBS = {
    "task submit": Verb(
        submit,
        _submit_options,
        takes_command=True,
        examples=(
            "hakuriver task submit --cores 4 --memory 8G -- python train.py --lr 0.1",
            "hakuriver task submit --target n1::0 --target n2::0,1 --env SEED=1 -- ./run.sh",
            "hakuriver task submit --gpus 2:a100 --time-limit 8h --retries 1 -- python train.py",
            "hakuriver task submit --sweep -- python train.py --lr=span:[0.1,0.01] --seed=span:{1..5}",
        ),
    ),
    "task list": Verb(
        list_,
        _list_options,
        examples=("hakuriver task list --state live", "hakuriver task list --owner @me -n 10"),
    ),
    "task show": Verb(
        show,
        batch.ids_or_batch,
        examples=(
            "hakuriver task show @last",
            "hakuriver --json task show 4-9",
            "hakuriver task show --batch 12",
        ),
    ),
    "task logs": Verb(
        logs, _logs_options, examples=("hakuriver task logs -f @last", "hakuriver task logs 7 -n 100")
    ),
    "task wait": Verb(wait, _wait_options, examples=("hakuriver task wait 4-9 --timeout 2h",)),
}
