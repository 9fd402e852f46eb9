"""The table of all commands: which module has each, and what ``--help`` says of it.

Importing it costs nothing; the module of a command is imported when the command is used.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hakuriver.cli.context import Context
from hakuriver.errors import UsageError

PLAIN = ""
Run = Callable[[Context, argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Verb:
    """What a module says of one command: its options, what runs it, and examples for its help."""

    run: Run
    options: Callable[[argparse.ArgumentParser], None] = lambda _: None
    takes_command: bool = False
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    module: str
    summary: str


SECTIONS: Mapping[str, Mapping[str, Row]] = {
    "Run something": {
        "run": Row("runcmd", "run a command on the cluster as if it ran here"),
        "task submit": Row("task", "put a command in the queue"),
        "task list": Row("task", "tasks, newest first"),
        "task show": Row("task", "everything about tasks"),
        "task logs": Row("task", "what a task printed"),
        "task wait": Row("task", "wait until tasks have ended"),
        "task explain": Row("explain", "why tasks wait, and what would let them go"),
        "task kill": Row("act", "end tasks"),
        "task pause": Row("act", "stop tasks for a while"),
        "task resume": Row("act", "let paused tasks go on"),
        "task hold": Row("act", "keep waiting tasks from starting"),
        "task release": Row("act", "let tasks start that are on hold"),
        "task requeue": Row("act", "move tasks away from a node that is lost"),
        "task resubmit": Row("act", "submit the same once more"),
    },
    "Environments": {
        "env list": Row("env", "what tasks can run in"),
        "env show": Row("env", "everything about environments"),
        "env create": Row("envwork", "make an environment's container from an image"),
        "env start": Row("env", "start an environment's container"),
        "env shell": Row("shell", "a terminal in an environment's container"),
        "env exec": Row("shell", "run a command in an environment's container"),
        "env stop": Row("env", "stop an environment's container"),
        "env delete": Row("env", "delete an environment's container; its versions stay"),
        "env pack": Row("envwork", "make a version of it, which every node gets by itself"),
        "env versions": Row("env", "its versions, newest first; rm removes some"),
        "env rollback": Row("env", "let new tasks have an earlier version"),
        "env import": Row("envwork", "make a version of a tarball"),
        "env adopt": Row("envwork", "make an environment like a container on the host"),
        "env prefetch": Row("envwork", "load a version on nodes before tasks need it"),
    },
    "The cluster": {
        "status": Row("cluster", "which cluster this is and how it is"),
        "watch": Row("cluster", "every change as it happens"),
        "nodes": Row("node", "the machines"),
        "node show": Row("node", "everything about machines"),
        "node drain": Row("node", "place nothing more on machines; what runs there goes on"),
        "node undrain": Row("node", "use drained machines again"),
        "node remove": Row("node", "forget machines that are gone"),
        "doctor": Row("doctor", "check that everything is in order"),
    },
    "Start and stop": {
        "up": Row("up", "start a cluster on this machine"),
        "down": Row("down", "stop it; tasks run on"),
        "host": Row("start", "run the host daemon in the foreground"),
        "runner": Row("start", "run the runner daemon in the foreground"),
    },
    "Set up": {
        "init config": Row("init", "write a commented config file and the credentials"),
        "config show": Row("init", "settings as they are in force"),
    },
}

_EXAMPLES = """\
Examples:
  hakuriver up                                  start, and open the terminal interface
  hakuriver run -- python train.py              run here and now, see its output
  hakuriver task submit --cores 4 -- make all   put it in the queue
  hakuriver task logs -f @last                  follow the newest task"""


def rows() -> dict[str, Row]:
    """All commands by their full name."""
    return {name: row for section in SECTIONS.values() for name, row in section.items()}


def groups() -> frozenset[str]:
    """The first words that need a second: ``task``, ``node`` …"""
    return frozenset(name.partition(" ")[0] for name in rows() if " " in name)


def load(name: str) -> Verb:
    """The command of a full name, its module imported; ``PLAIN`` is ``hakuriver`` without a command."""
    module = importlib.import_module(f"hakuriver.cli.{'start' if name == PLAIN else rows()[name].module}")
    verbs: Mapping[str, Verb] = module.VERBS
    return verbs[name]


def overview(group: str | None = None) -> str:
    """The help of ``hakuriver`` or of one group."""
    usage = f"hakuriver {group} VERB" if group else "hakuriver [COMMAND]"
    lines = [f"usage: {usage} [options]", ""]
    if group is None:
        lines += [
            "HakuRiver runs commands on the machines of a lab. Alone it opens the terminal interface.",
            "",
        ]
    for title, section in SECTIONS.items():
        shown = {name: row for name, row in section.items() if group in (None, name.partition(" ")[0])}
        if shown:
            lines += [f"{title}:", *(f"  {name:<14}{row.summary}" for name, row in shown.items()), ""]
    lines += [
        "Everywhere, before or after the command:",
        "  --json        plain data on stdout, errors as JSON on stderr (or HAKURIVER_JSON=1)",
        "  -q, --quiet   ids only",
        "  --state-dir D | --host URL --token-file F    another cluster than the default one",
        "  -h, --help    help of any command · --version",
    ]
    return "\n".join([*lines, "", _EXAMPLES] if group is None else lines)


def resolve(words: Sequence[str]) -> str | None:
    """The full name that one or two words mean, None when a second word is missing; raises UsageError."""
    known = rows()
    if words[0] in known:
        return words[0]
    if words[0] not in groups():
        raise _unknown(words[0], [*known, *groups()])
    if len(words) == 1:
        return None
    name = f"{words[0]} {words[1]}"
    if name not in known:
        raise _unknown(name, [each for each in known if each.startswith(f"{words[0]} ")])
    return name


def _unknown(name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # a verb without its noun: "submit" means "task submit"
        near = [each for each in known if each.partition(" ")[2] == name][:1]
    hint = f"did you mean hakuriver {near[0]}?" if near else "hakuriver --help lists all commands"
    return UsageError(f"there is no command {name!r}", hint=hint)
