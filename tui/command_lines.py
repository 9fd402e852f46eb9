"""The command line that does what was done in the TUI. Pure."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from hakuriver.units import format_cores


def submit_line(body: Mapping[str, Any]) -> str:
    """The command that submits the same request."""
    words = ["hakuriver", "task", "submit"]
    for each in body.get("targets", ()):
        words += ["--target", each]
    for name, flag, written in _FLAGS:
        if body.get(name) is not None:
            words += [flag, written(body[name])]
    if body.get("gpu_count"):
        model = f":{body['gpu_model']}" if body.get("gpu_model") else ""
        words += ["--gpus", f"{body['gpu_count']}{model}"]
    for each in body.get("tags", ()):
        words += ["--tag", each]
    for flag, pairs in (("--label", body.get("labels", {})), ("--env", body.get("env", {}))):
        for name, value in pairs.items():
            words += [flag, f"{name}={value}"]
    words += [f"--{name.replace('_', '-')}" for name in ("hold", "pin", "sweep") if body.get(name)]
    return shlex.join([*words, "--", *body.get("command", ())])


_SIGNALS = {int(each): each.name.removeprefix("SIG") for each in signal.Signals}


def _ids(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


_FLAGS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("cores", "--cores", format_cores),
    ("memory", "--memory", str),
    ("gpu_memory", "--gpu-memory", str),
    ("name", "--name", str),
    ("container", "--container", str),
    ("image", "--image", str),
    ("placement", "--placement", str),
    ("priority", "--priority", str),
    ("time_limit", "--time-limit", lambda seconds: f"{seconds:g}s"),
    ("notice", "--notice", lambda notice: f"{_SIGNALS[notice['signal']]}@{notice['seconds']:g}s"),
    ("retries", "--retries", str),
    ("after", "--after", _ids),
    ("max_running", "--max-running", str),
)


def verb_line(verb: str, tasks: Collection[int]) -> str:
    """The command line of an act on tasks."""
    return f"hakuriver task {'kill --undo' if verb == 'unkill' else verb} {_ids(tasks)}"


def batch_line(verb: str, batch: int) -> str:
    """The same on all of a batch."""
    return f"hakuriver task {verb} --batch {batch}"


def environment_line(verb: str, *words: str) -> str:
    """The command line of an act on an environment."""
    return shlex.join(["hakuriver", "env", *verb.split(), *words])


def node_line(verb: str, nodes: Collection[str], reason: str = "") -> str:
    """The command line of an act on nodes."""
    lines = [["hakuriver", "node", verb, name, *(["--reason", reason] if reason else [])] for name in nodes]
    return " && ".join(map(shlex.join, lines))
