"""``env list show create start stop delete versions rollback``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hakuriver import environments, units
from hakuriver.cli import output, several
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Cell, Column
from hakuriver.cli.parsing import typed
from hakuriver.cli.progress import sentence
from hakuriver.errors import UsageError
from hakuriver.paths import host_path

_COLUMNS = (
    Column("ENVIRONMENT"),
    Column("CONTAINER", drop=1),
    Column("CURRENT", right=True),
    Column("VERSIONS", drop=3, right=True),
    Column("SIZE", drop=4, right=True),
    Column("BASE", drop=6, flexible=True),
    Column("AGE", drop=5, right=True),
    Column("STATUS", drop=2, flexible=True),
)
_VERSION_COLUMNS = (
    Column("VERSION", right=True),
    Column("CURRENT"),
    Column("SIZE", drop=1, right=True),
    Column("PACKED", drop=2),
    Column("BY", drop=4),
    Column("TASKS", drop=5, right=True),
    Column("IMAGE", drop=6),
    Column("NOTE", drop=3, flexible=True),
)
_STYLES = {"running": "green", "stopped": "yellow", "missing": "dim", "unknown": "red"}


def path(route: str, name: str, **parts: str | int) -> str:
    """The path of an environment's route; raises UsageError for what can't be the name of one."""
    return host_path(route, name=environments.check_name(name), **parts)


def names_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="ENV")


def name_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="ENV")


def version_number(text: str) -> int:
    """A version as people type it; raises UsageError."""
    if not (text.isascii() and text.isdigit()) or int(text[:13]) >= environments.MAX_VERSION:
        raise UsageError(f"{text!r} is not a version", hint="hakuriver env versions ENV lists them")
    return int(text)


def listing(context: Context, _: argparse.Namespace) -> int:
    """All environments."""
    found = context.client().request("GET", host_path("environments"))
    if context.json:
        output.print_json(found)
    elif context.quiet:
        for each in found:
            print(output.shown(each["name"]))
    elif not found and output.to_terminal():
        output.say("no environment yet; make one: hakuriver env create NAME IMAGE")
    else:
        output.table(_COLUMNS, [_row(each) for each in found])
    return 0


def _row(each: dict[str, Any]) -> list[str | Cell]:
    return [
        each["name"],
        Cell(each["container"], _STYLES.get(each["container"], "")),
        "" if each["current"] is None else str(each["current"]),
        str(each["versions"]),
        units.format_size(each["size"]) if each["versions"] else "",
        each["base"],
        output.age(each["created_at"]),
        _status(each),
    ]


def _status(each: dict[str, Any]) -> Cell:
    if each["work"]:
        return Cell(sentence(each["work"]), "cyan")
    return Cell(each["problem"], "red") if each["problem"] else Cell("")


def show(context: Context, options: argparse.Namespace) -> int:
    """Everything about environments."""
    client = context.client()

    def get(name: str) -> Any:
        return client.request("GET", path("environment", name))

    found, code = several.each(context, list(dict.fromkeys(options.names)), get)
    several.show(
        context,
        found,
        lambda each: _show(each, client.request("GET", path("versions", each["name"]))),
        single=len(options.names) == 1,
        name="name",
    )
    return code


def _show(each: dict[str, Any], versions: list[dict[str, Any]]) -> None:
    output.facts(
        [
            ("environment", Cell(each["name"], "bold")),
            ("container", Cell(each["container"], _STYLES.get(each["container"], ""))),
            ("base", each["base"]),
            ("current", str(each["current"]) if each["current"] is not None else "never packed"),
            ("tarballs", f"{each['versions']}, {units.format_size(each['size'])}"),
            ("created", f"{output.local_time(each['created_at'])} by {each['created_by']}"),
            ("at work", sentence(each["work"]) if each["work"] else None),
            ("problem", Cell(each["problem"], "red") if each["problem"] else None),
        ]
    )
    if versions:
        print()
        output.table(_VERSION_COLUMNS, [_version_row(version) for version in versions])


def _version_row(version: dict[str, Any]) -> list[str | Cell]:
    return [
        str(version["version"]),
        Cell("current", "green") if version["current"] else "",
        units.format_size(version["size"]),
        output.local_time(version["created_at"]),
        version["by"],
        str(len(version["tasks"])) if version["tasks"] else "",
        version["image"].removeprefix("sha256:")[:12],
        version["note"],
    ]


def start(context: Context, options: argparse.Namespace) -> int:
    """Start the containers of environments."""
    return _change(context, options.names, "POST", "start")


def stop(context: Context, options: argparse.Namespace) -> int:
    """Stop the containers of environments; what is in them stays."""
    return _change(context, options.names, "POST", "stop")


def delete(context: Context, options: argparse.Namespace) -> int:
    """Delete the containers of environments; their versions stay."""
    return _change(context, options.names, "DELETE", "delete")


def _change(context: Context, names: Sequence[str], method: str, route: str) -> int:
    client = context.client()

    def act(name: str) -> Any:
        return client.request(method, path(route, name), timeout=60)

    found, code = several.each(context, list(dict.fromkeys(names)), act)
    if context.json:
        if found:
            output.print_json(found)
        return code
    for each in found:
        name = output.shown(each["name"])
        print(name if context.quiet else f"environment {name}: {_outcome(each, route)}")
    return code


def _outcome(each: dict[str, Any], route: str) -> str:
    if route != "delete":
        return output.paint(each["container"], _STYLES.get(each["container"], ""))
    left = each["versions"]
    if not left:
        return "deleted"
    return f"container deleted, {left} version{'' if left == 1 else 's'} kept"


def _versions_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="ENV | rm ENV VERSION")


def versions(context: Context, options: argparse.Namespace) -> int:
    """What an environment was packed to, newest first; ``rm ENV VERSION…`` removes versions."""
    words = options.words
    if words[0] == "rm" and len(words) > 1:
        return _remove(context, words[1], words[2:])
    if len(words) > 1:
        raise UsageError(f"unexpected {words[1]!r}", hint="hakuriver env versions rm ENV VERSION removes one")
    found = context.client().request("GET", path("versions", words[0]))
    if context.json:
        output.print_json(found)
    elif context.quiet:
        for each in found:
            print(each["version"])
    elif not found and output.to_terminal():
        output.say(f"{words[0]} was never packed; hakuriver env pack {words[0]} makes a version")
    else:
        output.table(_VERSION_COLUMNS, [_version_row(each) for each in found])
    return 0


def _remove(context: Context, name: str, given: Sequence[str]) -> int:
    if not given:
        raise UsageError("which version?", hint=f"hakuriver env versions {name} lists them")
    client = context.client()

    def act(version: int) -> Any:
        return client.request("DELETE", path("remove-version", name, version=version))

    numbers = list(dict.fromkeys(version_number(text) for text in given))
    found, code = several.each(context, numbers, act)
    if context.json:
        if found:
            output.print_json(found)
        return code
    for each in found:
        number = each["version"]
        print(number if context.quiet else f"environment {name}: version {number} removed")
    return code


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    name_option(parser)
    parser.add_argument(
        "version", nargs="?", type=typed(version_number), metavar="VERSION", help="default: the one before"
    )


def rollback(context: Context, options: argparse.Namespace) -> int:
    """Let new tasks have another version; nothing is deleted."""
    body = {"version": options.version}
    found = context.client().request("POST", path("rollback", options.name), body=body)
    if context.json:
        output.print_json([found])
    elif context.quiet:
        print(found["current"])
    else:
        print(f"environment {output.shown(found['name'])}: new tasks get version {found['current']}")
    return 0


VERBS = {
    "env list": Verb(listing, examples=("hakuriver env list",)),
    "env show": Verb(show, names_option, examples=("hakuriver env show torch",)),
    "env start": Verb(start, names_option, examples=("hakuriver env start torch",)),
    "env stop": Verb(stop, names_option, examples=("hakuriver env stop torch",)),
    "env delete": Verb(delete, names_option, examples=("hakuriver env delete torch",)),
    "env versions": Verb(
        versions,
        _versions_options,
        examples=("hakuriver env versions torch", "hakuriver env versions rm torch 1767225600"),
    ),
    "env rollback": Verb(
        rollback,
        _rollback_options,
        examples=("hakuriver env rollback torch", "hakuriver env rollback torch 1767225600"),
    ),
}
