"""``task explain``: why a task waits, and what would let it go."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from hakuriver import units
from hakuriver.cli import ids, output, several
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Cell, Column
from hakuriver.paths import host_path

MOST_TASKS = 8
"""Tasks that are named in one cell."""
_COLUMNS = (
    Column("NODE"),
    Column("NOW"),
    Column("WHY", flexible=True),
    Column("AFTER THE END OF", drop=1),
    Column("EXPECTED", drop=2),
)


def explain(context: Context, options: argparse.Namespace) -> int:
    """Why tasks wait, node by node, and whose end would let them go."""
    wanted = ids.resolve(context, options.ids, ended=True)
    client = context.client()

    def get(each: int) -> Any:
        return client.request("GET", host_path("explain", id=each))

    found, code = several.each(context, wanted.ids, get)
    several.show(context, found, _show, single=wanted.single, name="id")
    return code


def _show(found: dict[str, Any]) -> None:
    waits = found["nodes"] or found["ahead"]
    output.facts(
        [
            ("task", Cell(str(found["id"]), "bold")),
            ("state", output.state_cell(found["state"])),
            ("why", found["reason"]),
            ("before it", _before(found["ahead"]) if waits else None),
            ("room kept", _kept(found)),
        ]
    )
    if found["nodes"]:
        print()
        output.table(_COLUMNS, [_row(node) for node in found["nodes"]])


def _before(ahead: int) -> str:
    return f"{ahead} waiting task{'' if ahead == 1 else 's'}" if ahead else "nobody"


def _kept(found: dict[str, Any]) -> str | None:
    if not found["reserved"]:
        return None
    at = (
        f", enough {expected(found['reserved_at'])}"
        if found["reserved_at"]
        else ", nobody knows when it is enough"
    )
    return f"on {found['reserved']}{at}"


def _row(node: dict[str, Any]) -> list[str | Cell]:
    tasks = [str(task) for task in node["tasks"]]
    more = f" +{len(tasks) - MOST_TASKS}" if len(tasks) > MOST_TASKS else ""
    return [
        node["node"],
        Cell("fits", "green") if node["fits"] else "no",
        node["why"],
        f"{', '.join(tasks[:MOST_TASKS])}{more}",
        expected(node["at"]) if node["at"] else "unknown" if tasks else "",
    ]


def expected(text: str) -> str:
    """A time to come on this machine's clock and how far away it is: ``14:05:00 (in 12m03s)``."""
    at = output.moment(text)
    if at is None:
        return ""
    left = (at - datetime.now(UTC)).total_seconds()
    local = at.astimezone()
    form = "%H:%M:%S" if local.date() == datetime.now(UTC).astimezone().date() else "%Y-%m-%d %H:%M"
    return f"{local.strftime(form)} (in {units.format_duration(left)})" if left > 0 else "any moment"


VERBS = {
    "task explain": Verb(
        explain, ids.option, examples=("hakuriver task explain @last", "hakuriver --json task explain 7")
    )
}
