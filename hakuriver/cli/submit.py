"""The options of a submission and sending it: shared by ``run`` and ``task submit``."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hakuriver import units
from hakuriver.cli.context import Context
from hakuriver.cli.local import supervised
from hakuriver.cli.output import say
from hakuriver.cli.parsing import one_of, typed
from hakuriver.errors import HakuRiverError, Unreachable, UsageError, from_json
from hakuriver.paths import HEADER_IDEMPOTENCY, host_path

ON_NODE_LOSS = ("keep", "requeue", "fail")
EXECUTORS = ("process", "docker", "systemd")
_CALLER_VARIABLES = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
_RETRY_FOR = 10.0


def options(parser: argparse.ArgumentParser) -> None:
    """The options of a submission."""
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--target",
        "-t",
        action="append",
        default=[],
        metavar="T",
        help="node[:numa][::gpu,…]; again for one task on each; without it the scheduler picks",
    )
    where.add_argument(
        "--cores", type=typed(units.parse_cores), default=1.0, metavar="N", help="default 1; 0 = none"
    )
    where.add_argument(
        "--memory", type=typed(units.parse_size), default=0, metavar="SIZE", help="4G, 512MiB; a cap"
    )
    where.add_argument("--container", metavar="E[@VERSION]", help="an environment; NULL = none")
    where.add_argument("--image", metavar="REF", help="any image of the node's engine")
    where.add_argument("--executor", type=one_of("executor", EXECUTORS), metavar="|".join(EXECUTORS))
    where.add_argument(
        "--mount", action="append", metavar="H:C[:ro]", help="folder of the node in the container"
    )
    where.add_argument(
        "--privileged", action="store_true", default=None, help="where the node's policy allows it"
    )
    what = parser.add_argument_group("how it runs")
    what.add_argument(
        "--env", action="append", default=[], metavar="K[=V]", help="K alone: as it is set here"
    )
    what.add_argument(
        "--on-node-loss",
        type=one_of("policy", ON_NODE_LOSS),
        default="keep",
        metavar="|".join(ON_NODE_LOSS),
        help="what becomes of it when its node is lost; default keep: it waits for the node",
    )
    what.add_argument("--workdir", metavar="D", help="default: this folder where tasks run here")
    what.add_argument("--name", help="unique among live tasks; stands for the id")
    what.add_argument("--tag", action="append", default=[], metavar="TAG", help="again for several")


def request(options: argparse.Namespace, context: Context, *, stdin: bool = False) -> dict[str, Any]:
    """The body of ``POST /api/tasks``; raises UsageError."""
    found = {
        "command": list(_command(options.words, context.command)),
        "targets": options.target,
        "cores": options.cores,
        "memory": options.memory,
        "env": environment(options.env, context.environ),
        "container": options.container,
        "image": options.image,
        "executor": options.executor,
        "mounts": None if options.mount is None else [mount(text) for text in options.mount],
        "privileged": options.privileged,
        "workdir": options.workdir and _absolute(options.workdir),
        "name": options.name,
        "tags": options.tag,
        "stdin": stdin,
        "on_node_loss": options.on_node_loss,
        "caller": _caller(context.environ, here=options.workdir is None),
    }
    _check_text(found)
    return found


def _command(words: Sequence[str], after_dashes: tuple[str, ...] | None) -> Sequence[str]:
    if after_dashes is None:
        wrong = next((word for word in words if word.startswith("-") and word != "-"), None)
        if wrong:
            raise UsageError(
                f"is {wrong} an option of {words[0]!r} or ours?",
                hint=f"put -- before the command: -- {' '.join(words)}",
            )
        after_dashes = tuple(words)
    elif words:
        raise UsageError(
            f"{words[0]!r} stands before --", hint="the whole command comes after --, our options before it"
        )
    if not after_dashes:
        raise UsageError("there is no command", hint="write it after --, for example: -- python train.py")
    return after_dashes


def environment(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """``K=V`` and ``K`` (its value here) as a mapping, the last one wins; raises UsageError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env {text!r} has no name", hint="write --env NAME=VALUE or --env NAME")
        if not equals and name not in environ:
            raise UsageError(f"--env {name}: {name} is not set here", hint=f"write --env {name}=VALUE")
        found[name] = value if equals else environ[name]
    return found


def mount(text: str) -> dict[str, Any]:
    """``H:C`` or ``H:C:ro``; raises UsageError."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in ("", "ro", "rw"):
        raise UsageError(
            f"mount {text!r} can't be understood", hint="write /on/the/node:/in/the/container[:ro]"
        )
    if not source.startswith("/") or not target.startswith("/"):
        raise UsageError(
            f"mount {text!r} needs two absolute paths", hint="write /on/the/node:/in/the/container[:ro]"
        )
    return {"source": source, "target": target, "read_only": mode == "ro"}


def _caller(environ: Mapping[str, str], *, here: bool) -> dict[str, Any]:
    """Where the submission comes from; ``here``: the task is meant to run in this folder."""
    variables = {name: environ[name] for name in _CALLER_VARIABLES if name in environ}
    return {"workdir": _this_folder() if here else None, "env": variables}


def _this_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # elsewhere it would be another command: think of rm -r *
        raise UsageError(
            "this folder was removed, nothing can run in it", hint="cd somewhere else, or name a --workdir"
        ) from None


def _absolute(folder: str) -> str:
    try:
        return os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111  as a shell's cd reads ..
    except FileNotFoundError:
        return _this_folder()


def _check_text(value: object, where: str = "") -> None:
    """Refuse what JSON can't carry: names and arguments that are not text."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{where}: {value!a} is not valid UTF-8",
                hint="put those bytes into a file or a script, and name that",
            ) from None
    elif isinstance(value, dict):
        for name, each in value.items():
            _check_text(name, f"{where} name".strip())
            _check_text(each, f"{where} {name}".strip())
    elif isinstance(value, list):
        for each in value:
            _check_text(each, where)


def send(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    """Submit once, however often it must be sent: a lost answer is asked for again with the same key."""
    headers = {HEADER_IDEMPOTENCY: secrets.token_hex(16)}
    give_up = time.monotonic() + _RETRY_FOR
    pause = 0.2
    while True:
        try:
            answer: dict[str, Any] = context.client().request(
                "POST", host_path("submit"), body=body, headers=headers, timeout=60
            )
            return answer
        except KeyboardInterrupt:
            say("interrupted; whether it was submitted is not known: hakuriver task list")
            raise
        except Unreachable as error:
            if not _may_pass(error, context) or time.monotonic() + pause > give_up:
                raise
            time.sleep(pause)
            pause *= 2


def _may_pass(error: Unreachable, context: Context) -> bool:
    """Whether sending again makes sense: the connection broke, or our supervisor restarts the host."""
    if not isinstance(error.__cause__, Exception):
        return False  # the host's own word, or no cluster at all
    if not isinstance(error.__cause__, ConnectionRefusedError):
        return True
    state = context.endpoint().state
    return state is not None and supervised(state)


def refusals(answer: Mapping[str, Any]) -> list[HakuRiverError]:
    """The targets that were refused, each as the error that it is."""
    errors = []
    for refused in answer["refused"]:
        error = from_json(400, refused)
        errors.append(
            HakuRiverError(f"{refused['target']}: {error.message}", hint=error.hint, code=error.instance_code)
        )
    return errors
