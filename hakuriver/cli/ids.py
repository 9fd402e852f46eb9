"""What people write for tasks: ``7``, ``4,6``, ``4-9``, a unique live name, ``@last``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hakuriver.api import Client, Query
from hakuriver.cli.context import Context
from hakuriver.errors import Ambiguous, NotFound, UsageError
from hakuriver.paths import host_path

LAST = "@last"
MAX_IDS = 10_000
_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})\Z")
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Ids:
    """Task ids in the order they were written, each once. ``single``: exactly one was written, not a list."""

    ids: tuple[int, ...]
    single: bool


def option(parser: argparse.ArgumentParser) -> None:
    """``ID…`` of a command."""
    parser.add_argument("ids", nargs="+", metavar="ID", help="7 · 4,6 · 4-9 · a live name · @last")


def parse(words: Sequence[str]) -> list[int | str]:
    """Ids (int) and names or ``@last`` (str), in order; raises UsageError (pure)."""
    found: list[int | str] = []
    for part in (part.strip() for word in words for part in word.split(",")):
        span = _RANGE.match(part)
        if re.fullmatch(r"[0-9]{1,15}", part):
            found.append(int(part))
        elif span:
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise UsageError(f"range {part} runs backwards", hint=f"write {last}-{first}")
            if last - first >= MAX_IDS:
                raise UsageError(f"range {part} means more than {MAX_IDS} tasks")
            found.extend(range(first, last + 1))
        elif part == LAST or _NAME.match(part):
            found.append(part)
        else:
            raise UsageError(f"{part!r} is neither a task id nor a name", hint=_HINT)
    return found


_HINT = "write ids (7), lists (4,6), ranges (4-9), the name of a live task or @last"


def resolve(context: Context, words: Sequence[str], *, ended: bool = False) -> Ids:
    """The task ids that are meant; raises UsageError, NotFound or Ambiguous. Numbers are not looked up.

    With ``ended``, for verbs that only read, a name that no live task has means the newest that had it.
    """
    parsed = parse(words)
    client = context.client()
    ids = [part if isinstance(part, int) else _look_up(client, part, ended=ended) for part in parsed]
    single = len(words) == 1 and re.search(r",|\A[0-9]+-", words[0]) is None
    return Ids(tuple(dict.fromkeys(ids)), single)


def one(context: Context, word: str, *, ended: bool = False) -> int:
    """The one task that is meant."""
    found = resolve(context, [word], ended=ended)
    if len(found.ids) != 1:
        raise UsageError(f"{word} means {len(found.ids)} tasks, this takes one")
    return found.ids[0]


def _look_up(client: Client, name: str, *, ended: bool) -> int:
    tasks = host_path("tasks")
    if name == LAST:
        query: Query = {"owner": "@me", "machine": "@me", "kind": "command", "limit": 1}
        newest = client.request("GET", tasks, query=query)["items"]
        if not newest:
            raise NotFound("you have submitted no task from this machine yet, so there is no @last")
        return int(newest[0]["id"])
    living = client.request("GET", tasks, query={"name": name, "state": "live", "limit": 2})["items"]
    if len(living) > 1:
        raise Ambiguous(f"several live tasks are called {name}", hint="hakuriver task list --name shows them")
    if living:
        return int(living[0]["id"])
    last = client.request("GET", tasks, query={"name": name, "limit": 1})["items"]
    if last and ended:
        return int(last[0]["id"])
    hint = f"the last one of that name was {last[0]['id']}" if last else "hakuriver task list shows all"
    raise NotFound(f"no live task is called {name}", hint=hint)


def live(client: Client) -> dict[str, list[int]]:
    """Ids of all live tasks by state."""
    states: dict[str, list[int]] = {}
    cursor: str | None = None
    while True:
        query: Query = {"state": "live", "limit": 1000, "cursor": cursor}
        page = client.request("GET", host_path("tasks"), query=query)
        for task in page["items"]:
            states.setdefault(task["state"], []).append(task["id"])
        cursor = page["next"]
        if not cursor:
            return states
