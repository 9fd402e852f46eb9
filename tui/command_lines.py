"""The command line that does what was done in the TUI. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from hakuriver.units import format_cores


def submit_line(body: Mapping[str, Any]) -> str:
    """The command that submits the same request."""
    words = ["hakuriver", "task", "submit"]
    for each in body.get("targets", ()):
        words += ["--target", each]
    if "cores" in body:
        words += ["--cores", format_cores(body["cores"])]
    for flag in ("memory", "name", "container", "image"):
        if body.get(flag):
            words += [f"--{flag}", str(body[flag])]
    for each in body.get("tags", ()):
        words += ["--tag", each]
    for name, value in body.get("env", {}).items():
        words += ["--env", f"{name}={value}"]
    return shlex.join([*words, "--", *body.get("command", ())])


def verb_line(verb: str, tasks: Collection[int]) -> str:
    """The command line of an act on tasks."""
    return f"hakuriver task {'kill --undo' if verb == 'unkill' else verb} {','.join(map(str, tasks))}"
