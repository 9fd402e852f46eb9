"""Batches: all tasks of one submission, as ``--batch`` names them and as one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from hakuriver.api import Client, Query
from hakuriver.cli import ids
from hakuriver.cli.context import Context
from hakuriver.cli.parsing import typed
from hakuriver.errors import UsageError
from hakuriver.lifecycle import State
from hakuriver.paths import host_path

PAGE = 1000


def option(parser: argparse.ArgumentParser) -> None:
    """``--batch B``."""
    parser.add_argument(
        "--batch", type=typed(_batch), metavar="B", help="all of one submission; @last = your newest"
    )


def ids_or_batch(parser: argparse.ArgumentParser) -> None:
    """Ids, or ``--batch B`` instead of them; for ``chosen``."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="7 · 4,6 · 4-9 · a live name · @last")
    option(parser)


def _batch(text: str) -> int | str:
    if text == ids.LAST:
        return text
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < 1:
        raise UsageError(f"{text!r} is not a batch", hint="its number stands in hakuriver task show")
    return int(text)


def number(context: Context, given: int | str) -> int:
    """The batch that is meant; raises NotFound where there is no ``@last``."""
    if isinstance(given, int):
        return given
    task = ids.one(context, given)
    return int(context.client().request("GET", host_path("task", id=task))["batch"])


def chosen(
    context: Context, options: argparse.Namespace, *, states: str | None = None, ended: bool = False
) -> ids.Ids:
    """The tasks of the ids, or those of the batch that are in one of ``states`` (a filter of the API; None =
    all), in the order of their ids. Raises UsageError unless exactly one of the two was given."""
    if options.batch is None:
        if not options.ids:
            raise UsageError("missing: ID", hint="7, 4,6, 4-9, a live name, @last, or --batch B")
        return ids.resolve(context, options.ids, ended=ended)
    if options.ids:
        raise UsageError("--batch and ids were given", hint="give one of the two")
    client, batch = context.client(), number(context, options.batch)
    view(client, batch)  # raises NotFound
    return ids.Ids(tuple(sorted(_members(client, batch, states))), single=False)


def _members(client: Client, batch: int, states: str | None) -> list[int]:
    found: list[int] = []
    cursor: str | None = None
    while True:
        query: Query = {"batch": batch, "state": states, "limit": PAGE, "cursor": cursor}
        page = client.request("GET", host_path("tasks"), query=query)
        found += [task["id"] for task in page["items"]]
        cursor = page["next"]
        if not cursor:
            return found


def view(client: Client, batch: int) -> dict[str, Any]:
    """How a batch stands (``views.BatchView``); raises NotFound."""
    found: dict[str, Any] = client.request("GET", host_path("batch", id=batch))
    return found


def line(found: Mapping[str, Any]) -> str:
    """A batch in one line, in the order of a task's life."""
    states = [f"{found['states'][state]} {state}" for state in State if found["states"].get(state)]
    states += [f"{count} {state}" for state, count in found["states"].items() if state not in set(State)]
    most = f" · at most {found['max_running']} at a time" if found["max_running"] else ""
    size = f"{found['size']} task{'' if found['size'] == 1 else 's'}"
    return f"batch {found['batch']}: {' · '.join([size, *states])}{most}"
