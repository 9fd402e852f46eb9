"""Doing one thing to many: what went well, each error, one exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hakuriver.cli import output
from hakuriver.cli.codes import FAILED
from hakuriver.cli.context import Context
from hakuriver.cli.versions import SUSPICIOUS
from hakuriver.errors import HakuRiverError, Unreachable

Item = TypeVar("Item")


def each(
    context: Context, wanted: Sequence[Item], act: Callable[[Item], Any]
) -> tuple[list[dict[str, Any]], int]:
    """Act on each; what was done, and the exit code."""
    done: list[dict[str, Any]] = []
    errors: list[HakuRiverError] = []
    for one in wanted:
        try:
            done.append(act(one))
        except HakuRiverError as error:
            if isinstance(error, Unreachable) or error.instance_code in SUSPICIOUS:
                raise
            errors.append(error)
    return done, outcome_code(context, len(done), errors)


def outcome_code(context: Context, done: int, errors: Sequence[HakuRiverError]) -> int:
    """The exit code for several things of which ``done`` went well; shows each error, raises a lonely one."""
    if not errors:
        return 0
    if not done and len(errors) == 1:
        raise errors[0]
    for error in errors:
        output.print_error(error, as_json=context.json)
    codes = {error.exit_code for error in errors}
    return codes.pop() if not done and len(codes) == 1 else FAILED


def show(
    context: Context, items: Sequence[Any], print_one: Callable[[Any], None], *, single: bool, name: str
) -> None:
    """The shape of every ``show``: an object for one id, else an array; blocks with a blank line between."""
    if context.json and items:
        output.print_json(items[0] if single else list(items))
        return
    for place, item in enumerate(items):
        if context.quiet:
            print(output.shown(str(item[name])))
            continue
        if place:
            print()
        print_one(item)
