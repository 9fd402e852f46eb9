"""From options to a request, and sending it: shared by ``run`` and ``task submit``."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hakuriver import sweep
from hakuriver.cli import ids, values
from hakuriver.cli.context import Context
from hakuriver.cli.output import say
from hakuriver.errors import HakuRiverError, Unreachable, UsageError, from_json
from hakuriver.paths import HEADER_IDEMPOTENCY, host_path

MOST_AFTER = 1000
MOST_TASKS = 10_000
_CALLER_VARIABLES = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
_RETRY_FOR = 10.0


def request(options: argparse.Namespace, context: Context, *, stdin: bool = False) -> dict[str, Any]:
    """The body of ``POST /api/tasks``; raises UsageError. ``--after`` is looked up on the host."""
    found = {
        "command": list(_command(options.words, context.command)),
        "targets": options.target,
        "cores": options.cores,
        "memory": options.memory,
        "env": values.environment(options.env, context.environ),
        "container": options.container,
        "image": options.image,
        "executor": options.executor,
        "mounts": None if options.mount is None else [values.mount(text) for text in options.mount],
        "privileged": options.privileged,
        "workdir": os.path.normpath(options.workdir) if _is_absolute(options.workdir) else None,
        "name": options.name,
        "tags": options.tag,
        "stdin": stdin,
        "on_node_loss": options.on_node_loss,
        "caller": _caller(context.environ, options.workdir),
        **_wishes(options),
    }
    _check_text(found)
    _check_wishes(found)
    if options.sweep:
        _check_sweep(found)
    if options.after:
        found["after"] = _after(context, options.after)
    return found


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for beyond the plain submission; an older host knows no field that isn't here."""
    count, model = options.gpus or (0, None)
    asked = {
        "pin": options.pin,
        "gpu_count": count,
        "gpu_model": model,
        "gpu_memory": options.gpu_memory,
        "labels": dict(options.label or ()),
        "placement": options.placement,
        "private_network": options.private_network,
        "private_pid": options.private_pid,
        "shm_size": options.shm_size,
        "ulimits": dict(options.ulimit or ()),
        "user": options.user,
        "retries": options.retries,
        "priority": options.priority,
        "time_limit": options.time_limit,
        "notice": options.notice,
        "hold": options.hold,
        "sweep": options.sweep,
        "max_running": options.max_running,
    }
    return {name: value for name, value in asked.items() if value}


def _check_wishes(body: Mapping[str, Any]) -> None:
    """Refuse what contradicts itself, before anything is sent."""
    if body.get("gpu_memory") and not body.get("gpu_count"):
        raise UsageError("--gpu-memory is about the GPUs of --gpus", hint="add --gpus 1")
    if body.get("gpu_count") and any("::" in each for each in body["targets"]):
        raise UsageError("--gpus picks free GPUs, the target names some", hint="give one of the two")
    if body.get("pin") and (body["cores"] < 1 or body["cores"] % 1):
        raise UsageError("--pin gives whole cores", hint="--cores 1, 2 …")
    notice, limit = body.get("notice"), body.get("time_limit")
    if notice and (limit is None or notice["seconds"] >= limit):
        raise UsageError(
            "--notice comes before the end of --time-limit",
            hint="give a time limit that is longer than the notice",
        )
    if body.get("max_running") and not body.get("sweep") and len(body["targets"]) < 2:
        raise UsageError("--max-running is for many tasks", hint="add --sweep, or several --target")


def _check_sweep(body: Mapping[str, Any]) -> None:
    found = sweep.parse(body["command"])
    if not found.axes:
        raise UsageError(
            "--sweep: there is no span: in the command", hint="write span:{1..5}, span:{A..Z} or span:[a,b,c]"
        )
    count = len(found) * max(1, len(body["targets"]))
    if count > MOST_TASKS:
        raise UsageError(f"{_sweep_summary(body)}, the most is {MOST_TASKS}")


def _sweep_summary(body: Mapping[str, Any]) -> str:
    return sweep.parse(body["command"]).summary("task", max(1, len(body["targets"])))


def _after(context: Context, words: Sequence[str]) -> list[int]:
    found = ids.resolve(context, words, ended=True).ids
    if len(found) > MOST_AFTER:
        raise UsageError(f"--after names {len(found)} tasks, the most is {MOST_AFTER}")
    return list(found)


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


def _is_absolute(folder: str | None) -> bool:
    return folder is not None and folder.startswith("/")


def _caller(environ: Mapping[str, str], typed: str | None) -> dict[str, Any]:
    """Where the submission comes from. A folder that was typed like ``data`` or ``~/data`` is one of this
    machine; the host finds out what it is for the task."""
    found: dict[str, Any] = {"env": {name: environ[name] for name in _CALLER_VARIABLES if name in environ}}
    if typed is None:
        found["workdir"] = _this_folder()
    elif not _is_absolute(typed):
        found |= {"workdir": _absolute(typed), "workdir_typed": True}
    return found | {"user": f"{os.geteuid()}:{os.getegid()}"}


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
    """Submit once, however often it must be sent: a lost answer is asked for again with the same key.

    Says on stderr how many tasks a sweep makes.
    """
    if body.get("sweep"):
        say(_sweep_summary(body))
    return post(context, host_path("submit"), body)


def post(context: Context, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Something that makes tasks, under one key however often it is sent (``views.SubmitView``). Says on
    stderr what the host thinks is worth a warning."""
    answer = _send(context, path, body)
    for warning in answer.get("warnings", ()):  # an older host has none
        say(warning)
    return answer


def _send(context: Context, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {HEADER_IDEMPOTENCY: secrets.token_hex(16)}
    give_up = time.monotonic() + _RETRY_FOR
    pause = 0.2
    while True:
        try:
            answer: dict[str, Any] = context.client().request(
                "POST", path, body=body, headers=headers, timeout=60
            )
            return answer
        except KeyboardInterrupt:
            say("interrupted; whether it was submitted is not known: hakuriver task list")
            raise
        except Unreachable as error:
            if not _may_pass(error) or time.monotonic() + pause > give_up:
                raise
            time.sleep(pause)
            pause *= 2


def _may_pass(error: Unreachable) -> bool:
    """Whether sending again makes sense: the connection broke. Without a cause it is the host's own word, or
    there is no cluster at all; one that refused was waited for already (patience.py)."""
    return error.__cause__ is not None and not isinstance(error.__cause__, ConnectionRefusedError)


def refusals(answer: Mapping[str, Any]) -> list[HakuRiverError]:
    """The targets that were refused, each as the error that it is."""
    errors = []
    for refused in answer["refused"]:
        error = from_json(400, refused)
        errors.append(
            HakuRiverError(f"{refused['target']}: {error.message}", hint=error.hint, code=error.instance_code)
        )
    return errors
