"""The tables of environments and of one's versions: their columns, and what filters know of them. Pure."""

from __future__ import annotations

from hakuriver.units import format_size
from hakuriver.views import VersionView
from tui import environments
from tui.columns import Column
from tui.environments import EnvironmentRow
from tui.filters import Grammar
from tui.plain import clean


def _age(version: int | None) -> str:
    return "" if version is None else environments.age(version)


ENVIRONMENT_COLUMNS: tuple[Column[EnvironmentRow], ...] = (
    Column("name", "NAME", 14, lambda r: clean(r.view["name"]), lambda r: r.view["name"], most=32),
    Column(
        "container",
        "CONTAINER",
        9,
        lambda r: environments.container_state(r.view)[0][0],
        lambda r: r.view["container"],
        lambda r: environments.container_state(r.view)[0][1],
    ),
    Column(
        "current",
        "CURRENT",
        10,
        lambda r: str(r.view["current"] or ""),
        lambda r: r.view["current"] or 0,
        right=True,
        descending=True,
    ),
    Column(
        "age",
        "AGE",
        6,
        lambda r: _age(r.view["current"]),
        lambda r: r.view["current"] or 0,
        lambda _: "muted",
        drop=1,
        right=True,
        descending=True,
        ticks=True,
    ),
    Column(
        "versions",
        "VERS",
        4,
        lambda r: str(r.view["versions"] or "–"),
        lambda r: r.view["versions"],
        drop=5,
        right=True,
        descending=True,
    ),
    Column(
        "size",
        "SIZE",
        5,
        lambda r: format_size(r.view["size"]) if r.view["versions"] else "–",
        lambda r: r.view["size"],
        drop=4,
        right=True,
        descending=True,
    ),
    Column(
        "base",
        "BASE",
        12,
        lambda r: clean(r.view["base"]),
        lambda r: r.view["base"],
        lambda _: "muted",
        most=28,
        drop=6,
    ),
    Column(
        "meter",
        "",
        10,
        lambda r: environments.meter(environments.work_of(r)),
        lambda r: environments.meter(environments.work_of(r)),
        lambda _: "accent",
        drop=3,
        optional=True,
    ),
    Column("status", "NOW", 24, environments.status, environments.status, environments.status_tone, flex=1),
)
ENVIRONMENT_GRAMMAR = Grammar[EnvironmentRow](
    {
        "name": lambda r: (r.view["name"],),
        "container": lambda r: (r.view["container"],),
        "base": lambda r: (r.view["base"],),
        "by": lambda r: (r.view["created_by"],),
        "state": lambda r: (
            "working" if environments.work_of(r) else "idle",
            "packed" if r.view["versions"] else "never",
        ),
    },
    lambda r: " ".join((r.view["name"], r.view["base"], r.view["container"], environments.status(r))).lower(),
)
VERSION_COLUMNS: tuple[Column[VersionView], ...] = (
    Column(
        "version",
        "VERSION",
        10,
        lambda v: str(v["version"]),
        lambda v: v["version"],
        right=True,
        descending=True,
    ),
    Column(
        "age",
        "AGE",
        6,
        lambda v: environments.age(v["version"]),
        lambda v: v["version"],
        lambda _: "muted",
        right=True,
        descending=True,
        ticks=True,
    ),
    Column(
        "current",
        "",
        9,
        lambda v: "● current" if v["current"] else "",
        lambda v: not v["current"],
        lambda _: "good",
    ),
    Column(
        "size", "SIZE", 5, lambda v: format_size(v["size"]), lambda v: v["size"], right=True, descending=True
    ),
    Column("by", "BY", 4, lambda v: clean(v["by"]), lambda v: v["by"], lambda _: "muted", most=16, drop=2),
    Column(
        "image",
        "IMAGE",
        12,
        lambda v: clean(v["image"]).removeprefix("sha256:")[:12],
        lambda v: v["image"],
        lambda _: "muted",
        drop=3,
    ),
    Column(
        "tasks",
        "TASKS",
        6,
        environments.what_tasks_use,
        lambda v: len(v["tasks"]),
        lambda _: "accent",
        most=24,
        drop=1,
        descending=True,
    ),
    Column("note", "NOTE", 10, lambda v: clean(v["note"]), lambda v: v["note"], flex=1),
)
VERSION_GRAMMAR = Grammar[VersionView](
    {
        "by": lambda v: (v["by"],),
        "version": lambda v: (str(v["version"]),),
        "task": lambda v: map(str, v["tasks"]),
        "state": lambda v: ("current" if v["current"] else "old",),
    },
    lambda v: f"{v['version']} {v['note']} {v['by']} {v['image']}".lower(),
    exact=frozenset({"task"}),
)
