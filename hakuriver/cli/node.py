"""``nodes`` and ``node show``."""

from __future__ import annotations

import argparse
from typing import Any

from hakuriver import target, units
from hakuriver.cli import output
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Cell, Column
from hakuriver.errors import NotFound
from hakuriver.paths import host_path

_COLUMNS = (
    Column("NODE"),
    Column("STATE"),
    Column("TASKS", drop=4, right=True),
    Column("CORES FREE", drop=1, right=True),
    Column("MEMORY FREE", drop=2, right=True),
    Column("CPU", drop=3, right=True),
    Column("GPUS", drop=5),
    Column("EXECUTORS", drop=6),
    Column("ADDRESS", drop=7),
    Column("SEEN", drop=8, right=True),
)


def nodes(context: Context, _: argparse.Namespace) -> int:
    """The machines."""
    found = context.client().request("GET", host_path("nodes"))
    if context.json:
        output.print_json(found)
    elif context.quiet:
        for node in found:
            print(output.shown(node["name"]))
    elif not found and output.to_terminal():
        output.say("no node has joined yet")
    else:
        output.table(_COLUMNS, [_row(node) for node in found])
    return 0


def _row(node: dict[str, Any]) -> list[str | Cell]:
    usage = node["usage"]
    return [
        node["name"],
        _state(node),
        str(node["tasks"]),
        f"{units.format_cores(node['cores_free'])}/{units.format_cores(node['cores'])}",
        f"{units.format_size(node['memory_free'])}/{units.format_size(node['memory'])}",
        f"{usage['cpu_percent']:.0f}%" if usage else "",
        _gpus(node["gpus"]),
        ",".join(node["executors"]),
        node["address"],
        output.age(node["seen_at"]),
    ]


def _state(node: dict[str, Any]) -> Cell:
    cell = output.state_cell(node["state"])
    return Cell(f"{cell.text}, drained", "yellow") if node["drained"] else cell


def _gpus(gpus: list[dict[str, Any]]) -> str:
    free = sum(1 for gpu in gpus if gpu["task"] is None and not gpu["external"])
    return f"{free}/{len(gpus)} free" if gpus else ""


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")


def show(context: Context, options: argparse.Namespace) -> int:
    """Everything about machines."""
    client = context.client()
    found = []
    for name in options.names:
        if not target.NODE_NAME.match(name):
            raise NotFound(f"there is no node {name!r}", hint="hakuriver nodes lists them")
        found.append(client.request("GET", host_path("node", name=name)))
    output.one_or_many(
        single=len(found) == 1,
        items=found,
        as_json=context.json,
        quiet=context.quiet,
        name="name",
        show=_show,
    )
    return 0


def _show(node: dict[str, Any]) -> None:
    size, usage = units.format_size, node["usage"] or {}
    output.facts(
        [
            ("node", Cell(node["name"], "bold")),
            ("state", _state(node)),
            ("reason", node["reason"]),
            ("drained", node["drain_reason"]),
            ("address", node["address"]),
            ("tasks", str(node["tasks"])),
            (
                "cores",
                f"{units.format_cores(node['cores_free'])} free of {units.format_cores(node['cores'])}",
            ),
            ("memory", f"{size(node['memory_free'])} free of {size(node['memory'])}"),
            ("in use", _usage(usage)),
            ("executors", ", ".join(node["executors"])),
            *((f"no {name}", why) for name, why in sorted(node["unavailable"].items())),
            ("labels", " ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))),
            ("version", node["version"]),
            ("joined", output.local_time(node["registered_at"])),
            ("seen", f"{output.age(node['seen_at'])} ago" if node["seen_at"] else "never"),
        ]
    )
    if node["numa"]:
        columns = [Column("NUMA", right=True), Column("CPUS", right=True), Column("MEMORY", right=True)]
        output.table(columns, [[str(n["id"]), str(len(n["cpus"])), size(n["memory"])] for n in node["numa"]])
    if node["gpus"]:
        output.table(_GPU_COLUMNS, [_gpu_row(gpu) for gpu in node["gpus"]])


def _usage(usage: dict[str, Any]) -> str:
    if not usage:
        return ""
    parts = [f"cpu {usage['cpu_percent']:.0f}%", f"load {usage['load']:.2f}"]
    parts.append(f"memory {units.format_size(usage['memory_used'])}")
    if usage["disk_free"] is not None:
        parts.append(f"disk free {units.format_size(usage['disk_free'])}")
    if usage["temperature"] is not None:
        parts.append(f"{usage['temperature']:.0f} °C")
    return ", ".join(parts)


_GPU_COLUMNS = (
    Column("GPU", right=True),
    Column("MODEL", flexible=True),
    Column("TASK", right=True),
    Column("MEMORY", drop=1, right=True),
    Column("USE", drop=2, right=True),
    Column("TEMP", drop=3, right=True),
    Column("UUID", drop=4),
)


def _gpu_row(gpu: dict[str, Any]) -> list[str | Cell]:
    def known(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.0f}{unit}"

    used = "?" if gpu["memory_used"] is None else units.format_size(gpu["memory_used"])
    return [
        str(gpu["index"]),
        gpu["model"],
        "other" if gpu["external"] and gpu["task"] is None else str(gpu["task"] or ""),
        f"{used}/{units.format_size(gpu['memory'])}",
        known(gpu["utilization"], "%"),
        known(gpu["temperature"], "°C"),
        gpu["uuid"],
    ]


VERBS = {
    "nodes": Verb(nodes),
    "node show": Verb(show, _show_options, examples=("hakuriver node show n1",)),
}
