"""What there is to say about environments: what is done to them, how old versions are. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hakuriver.environments import NATIVE, parse_reference
from hakuriver.errors import UsageError
from hakuriver.units import format_duration, format_size
from hakuriver.views import EnvironmentView, VersionView, WorkView
from tui.plain import clean

CONTAINERS: dict[str, tuple[str, str]] = {
    "running": ("●", "good"),
    "stopped": ("○", "wait"),
    "missing": ("–", "muted"),
    "unknown": ("?", "warn"),
}
"""How a container stands → a sign and its tone."""
_METER = 10
_DAY = 86400
_LONG_AGO = 10 * _DAY
Loading = Mapping[str, Mapping[str, WorkView]]
"""What nodes are at that load something now, by environment and node."""


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """An environment, and the nodes that load it because we asked."""

    view: EnvironmentView
    loading: Mapping[str, WorkView]


def rows_of(environments: Iterable[EnvironmentView], loading: Loading) -> dict[str, EnvironmentRow]:
    """A row for each, by name."""
    return {view["name"]: EnvironmentRow(view, dict(loading.get(view["name"], {}))) for view in environments}


def container_state(view: EnvironmentView) -> list[tuple[str, str]]:
    """How its container stands, with the tone of it."""
    sign, tone = CONTAINERS.get(view["container"], ("?", "warn"))
    return [(f"{sign} {clean(view['container'])}", tone)]


def age(version: int, now: float | None = None) -> str:
    """How long ago a version was packed: its number is the time."""
    seconds = (time.time() if now is None else now) - version
    return format_duration(seconds) if seconds < _LONG_AGO else f"{seconds // _DAY:.0f}d"


def work_of(row: EnvironmentRow) -> WorkView | None:
    """What is done to it: by the host, else on nodes, as one."""
    if row.view["work"] is not None or not row.loading:
        return row.view["work"]
    works = list(row.loading.values())
    nodes = sorted(row.loading)
    where = clean(nodes[0]) if len(nodes) == 1 else f"{len(nodes)} nodes"
    totals = [work["total"] for work in works if work["total"] is not None]
    return {
        "kind": "load",
        "by": works[0]["by"],
        "since": min(work["since"] for work in works),
        "text": f"{where}: {works[0]['text']}",
        "done": sum(work["done"] for work in works),
        "total": sum(totals) if len(totals) == len(works) else None,
        "speed": sum(work["speed"] or 0.0 for work in works) or None,
    }


def sentence(work: WorkView) -> str:
    """``packing: 1.2G of 5G, 430M/s, 9s left``."""
    text, done, total, speed = clean(work["text"]), work["done"], work["total"], work["speed"]
    if not done:
        return text
    text += f": {format_size(done)}" + (f" of {format_size(total)}" if total else "")
    if speed:
        text += f", {format_size(int(speed))}/s"
        if total and total > done:
            text += f", {format_duration((total - done) / speed)} left"
    return text


def brief(work: WorkView) -> str:
    """The same for a narrow column, what changes first: ``24% 430M/s 9s left: packing``."""
    total, speed = work["total"], work["speed"]
    if not work["done"] or not total:
        return sentence(work)
    left = format_duration((total - work["done"]) / speed) if speed and total > work["done"] else ""
    parts = (
        f"{min(1.0, work['done'] / total):.0%}",
        f"{format_size(int(speed))}/s" if speed else "",
        f"{left} left" if left else "",
    )
    return f"{' '.join(filter(None, parts))}: {clean(work['text'])}"


def meter(work: WorkView | None) -> str:
    """How far it is; nothing where nobody knows."""
    if work is None or not work["total"]:
        return ""
    full = round(min(1.0, work["done"] / work["total"]) * _METER)
    return "━" * full + "─" * (_METER - full)


def status(row: EnvironmentRow) -> str:
    """The one thing to know about it now: what is done to it, what is wrong, or what to do first."""
    if (work := work_of(row)) is not None:
        return brief(work)
    if row.view["problem"]:
        return clean(row.view["problem"])
    return "" if row.view["current"] is not None else "never packed: no task can use it yet"


def status_tone(row: EnvironmentRow) -> str:
    if work_of(row) is not None:
        return "info"
    return "bad" if row.view["problem"] else "wait"


def environment_problem(row: EnvironmentRow) -> bool:
    """What somebody should look at."""
    return bool(row.view["problem"])


def facts_of(row: EnvironmentRow) -> list[tuple[str, str, str]]:
    """Everything about it: label, text, tone. What says nothing is left out."""
    view, work = row.view, work_of(row)
    current = view["current"]
    packed = f"{current}, packed {age(current)} ago" if current is not None else "never packed: p packs it"
    facts = [
        ("container", *container_state(view)[0]),
        ("current", packed, "" if current is not None else "wait"),
        ("tarballs", f"{view['versions']}, {format_size(view['size'])}" if view["versions"] else "none", ""),
        ("base", clean(view["base"]), ""),
        ("made by", clean(view["created_by"]), ""),
        ("at work", f"{meter(work)} {sentence(work)}".strip() if work else "", "info"),
        ("problem", clean(view["problem"]), "bad"),
    ]
    return [(label, text, tone) for label, text, tone in facts if text]


def what_tasks_use(version: VersionView) -> str:
    """The living tasks that need a version."""
    tasks = version["tasks"]
    return ", ".join(map(str, tasks[:6])) + ("…" if len(tasks) > 6 else "")


def wrong_reference(text: str, known: Mapping[str, EnvironmentView]) -> str:
    """What is wrong with an environment as a task names it. With none known, any name passes."""
    if text == NATIVE:
        return ""
    try:
        wanted = parse_reference(text)
    except UsageError as error:
        return error.message
    found = known.get(wanted.name)
    if found is None:
        return f"there is no environment {wanted.name!r}" if known else ""
    if found["versions"] == 0:
        return f"{wanted.name} was never packed: view 4, p packs it"
    return ""


def reference_completion(text: str, known: Mapping[str, EnvironmentView]) -> str | None:
    """``tor`` → ``torch``, ``torch@`` → its current version."""
    name, at, version = text.partition("@")
    if at:
        current = known[name]["current"] if name in known else None
        whole = None if current is None else f"{name}@{current}"
        return (
            whole if whole is not None and whole != text and whole.startswith(f"{name}@{version}") else None
        )
    names = (*sorted(known), NATIVE)
    return next((each for each in names if text and each.startswith(text) and each != text), None)
