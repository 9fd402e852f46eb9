"""``nodes`` and ``node show drain undrain remove``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hakuriver import target, units
from hakuriver.cli import output, several
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
    Column("LABELS", drop=7),
    Column("EXECUTORS", drop=6),
    Column("ADDRESS", drop=8),
    Column("SEEN", drop=9, right=True),
)


def _nodes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", action="store_true", help="one line for each GPU")


def nodes(context: Context, options: argparse.Namespace) -> int:
    """The machines."""
    found = context.client().request("GET", host_path("nodes"))
    if context.json:
        output.print_json(found)
    elif context.quiet:
        for node in found:
            print(output.shown(node["name"]))
    elif not found and output.to_terminal():
        output.say("no node has joined yet")
    elif options.gpus:
        rows = [[node["name"], *_gpu_row(gpu)] for node in found for gpu in node["gpus"]]
        output.table((Column("NODE"), *_GPU_COLUMNS), rows)
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
        _labels(node),
        ",".join(node["executors"]),
        node["address"],
        output.age(node["seen_at"]),
    ]


def _state(node: dict[str, Any]) -> Cell:
    cell = output.state_cell(node["state"])
    return Cell(f"{cell.text}, drained", "yellow") if node["drained"] else cell


def _gpus(gpus: list[dict[str, Any]]) -> str:
    """``2/8 free``, of those that take tasks at all."""
    usable = [gpu for gpu in gpus if not gpu.get("mig")]
    free = sum(1 for gpu in usable if gpu["task"] is None and not gpu["external"] and not gpu.get("lost"))
    return f"{free}/{len(usable)} free" if usable else ""


def _labels(node: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))


def _names_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NODE")


def _path(route: str, name: str) -> str:
    """The path of a node's route; raises NotFound for what can't be one."""
    if not target.NODE_NAME.match(name):
        raise NotFound(f"there is no node {name!r}", hint="hakuriver nodes lists them")
    return host_path(route, name=name)


def show(context: Context, options: argparse.Namespace) -> int:
    """Everything about machines."""
    client = context.client()

    def get(name: str) -> Any:
        return client.request("GET", _path("node", name))

    found, code = several.each(context, list(dict.fromkeys(options.names)), get)
    several.show(context, found, _show, single=len(options.names) == 1, name="name")
    return code


def _drain_options(parser: argparse.ArgumentParser) -> None:
    _names_option(parser)
    parser.add_argument("--reason", default="", metavar="R", help="shown to everybody whose task waits")


def drain(context: Context, options: argparse.Namespace) -> int:
    """Place nothing more on machines; what runs there goes on."""
    return _change(context, options.names, "drain", {"reason": options.reason})


def undrain(context: Context, options: argparse.Namespace) -> int:
    """Use drained machines again."""
    return _change(context, options.names, "undrain", {})


def _remove_options(parser: argparse.ArgumentParser) -> None:
    _names_option(parser)
    parser.add_argument("--force", action="store_true", help="even with live tasks: they count as lost then")


def remove(context: Context, options: argparse.Namespace) -> int:
    """Forget machines that are gone. One that comes back joins anew."""
    return _change(context, options.names, "remove", {"force": options.force})


def _change(context: Context, names: Sequence[str], verb: str, body: dict[str, Any]) -> int:
    client = context.client()

    def act(name: str) -> Any:
        return client.request("POST", _path(verb, name), body=body)

    found, code = several.each(context, list(dict.fromkeys(names)), act)
    if context.json:
        if found:
            output.print_json(found)
        return code
    for node in found:
        name = output.shown(node["name"])
        print(name if context.quiet else f"node {name}: {_outcome(node, verb)}")
    return code


def _outcome(node: dict[str, Any], verb: str) -> str:
    if verb == "remove":
        return "removed"
    state = _state(node)
    why = f": {output.shown(node['drain_reason'])}" if node["drained"] and node["drain_reason"] else ""
    tasks = f", {node['tasks']} task{'' if node['tasks'] == 1 else 's'} on it" if node["tasks"] else ""
    return f"{output.paint(state.text, state.style)}{why}{tasks}"


def _show(node: dict[str, Any]) -> None:
    size, usage = units.format_size, node["usage"] or {}
    output.facts(
        [
            ("node", Cell(node["name"], "bold")),
            ("state", _state(node)),
            ("reason", node["reason"]),
            ("drained", (node["drain_reason"] or "yes") if node["drained"] else None),
            ("address", node["address"]),
            ("tasks", str(node["tasks"])),
            ("processor", _processor(node.get("cpu"))),
            (
                "cores",
                f"{units.format_cores(node['cores_free'])} free of {units.format_cores(node['cores'])}",
            ),
            ("memory", f"{size(node['memory_free'])} free of {size(node['memory'])}"),
            ("in use", _usage(usage)),
            ("executors", ", ".join(node["executors"])),
            *((f"no {name}", why) for name, why in sorted(node["unavailable"].items())),
            *((name, version) for name, version in sorted((node.get("engines") or {}).items())),
            ("labels", _labels(node)),
            ("version", node["version"]),
            ("joined", output.local_time(node["registered_at"])),
            ("seen", f"{output.age(node['seen_at'])} ago" if node["seen_at"] else "never"),
        ]
    )
    if node["numa"]:
        print()
        output.table(_NUMA_COLUMNS, [_numa_row(node, numa) for numa in node["numa"]])
    if node["gpus"]:
        print()
        output.table(_GPU_COLUMNS, [_gpu_row(gpu) for gpu in node["gpus"]])


def _processor(cpu: dict[str, Any] | None) -> str:
    if not cpu:
        return ""
    sockets = f", {cpu['sockets']} sockets" if cpu["sockets"] > 1 else ""
    return f"{cpu['model']} ({cpu['cores']} cores, {cpu['threads']} threads{sockets})"


_NUMA_COLUMNS = (
    Column("NUMA", right=True),
    Column("CPUS", flexible=True),
    Column("MEMORY FREE", right=True),
    Column("GPUS", drop=2),
    Column("DISTANCES", drop=1),
)


def _numa_row(node: dict[str, Any], numa: dict[str, Any]) -> list[str | Cell]:
    free = "?" if numa["memory_free"] is None else units.format_size(numa["memory_free"])
    return [
        str(numa["id"]),
        ranges(numa["cpus"]),
        f"{free}/{units.format_size(numa['memory'])}",
        ranges([gpu["index"] for gpu in node["gpus"] if gpu["numa"] == numa["id"]]),
        " ".join(map(str, numa.get("distances") or ())),
    ]


def ranges(numbers: Sequence[int]) -> str:
    """``0-3,8``: whole numbers as the kernel lists them."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


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
    Column("FOR"),
    Column("MEMORY", drop=1, right=True),
    Column("USE", drop=2, right=True),
    Column("TEMP", drop=3, right=True),
    Column("POWER", drop=4, right=True),
    Column("NUMA", drop=5, right=True),
    Column("UUID", drop=6),
)


def _gpu_row(gpu: dict[str, Any]) -> list[str | Cell]:
    def known(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.0f}{unit}"

    used = "?" if gpu["memory_used"] is None else units.format_size(gpu["memory_used"])
    return [
        str(gpu["index"]),
        gpu["model"],
        _holder(gpu),
        f"{used}/{units.format_size(gpu['memory'])}",
        known(gpu["utilization"], "%"),
        known(gpu["temperature"], "°C"),
        known(gpu["power"], "W"),
        "" if gpu["numa"] is None else str(gpu["numa"]),
        gpu["uuid"],
    ]


def _holder(gpu: dict[str, Any]) -> Cell:
    """Whose a GPU is now, or why nobody gets it."""
    if gpu.get("lost"):
        held = "" if gpu["task"] is None else f", task {gpu['task']}"
        return Cell(f"lost: {gpu['lost']}{held}", "red")
    if gpu["task"] is not None:
        also = ", external" if gpu["external"] else ""
        return Cell(f"task {gpu['task']}{also}", "yellow" if also else "")
    if gpu["external"]:
        users = sorted({each["user"] or "?" for each in gpu.get("processes", ()) if each["task"] is None})
        return Cell(f"external ({', '.join(users)})" if users else "external", "yellow")
    return Cell("its instances", "dim") if gpu.get("mig") else Cell("free", "green")


VERBS = {
    "nodes": Verb(nodes, _nodes_options, examples=("hakuriver nodes", "hakuriver nodes --gpus")),
    "node show": Verb(show, _names_option, examples=("hakuriver node show n1",)),
    "node drain": Verb(
        drain, _drain_options, examples=("hakuriver node drain n1 n2 --reason 'new disks on Monday'",)
    ),
    "node undrain": Verb(undrain, _names_option, examples=("hakuriver node undrain n1 n2",)),
    "node remove": Verb(
        remove, _remove_options, examples=("hakuriver node remove n1", "hakuriver node remove n1 --force")
    ),
}
