"""``status`` and ``watch``."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

from hakuriver import __version__, endpoint
from hakuriver.cli import follow, ids, output
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.local import supervised
from hakuriver.cli.output import Cell
from hakuriver.lifecycle import NodeState
from hakuriver.paths import host_path


def status(context: Context, _: argparse.Namespace) -> int:
    """Which cluster this is and how it is."""
    found = context.endpoint()
    client = context.client()
    local = endpoint.read_cluster(found.state) if found.state else {}
    cluster = client.request("GET", host_path("cluster"), timeout=5)
    nodes = client.request("GET", host_path("nodes"))
    tasks = {state: len(live) for state, live in ids.live(client).items()}
    shown = {
        "cluster": cluster["cluster"],
        "label": found.label,
        "version": cluster["version"],
        "client_version": __version__,
        "subject": cluster["subject"],
        "state_dir": str(found.state.root.parent) if found.state else None,
        "host": _daemon(local, "host") | {"url": found.url},
        "runner": _daemon(local, "runner"),
        "supervisor": {"pid": local.get("supervisor", {}).get("pid") if _watched(found) else None},
        "nodes": dict(Counter(node["state"] for node in nodes)),
        "tasks": tasks,
    }
    if context.json:
        output.print_json(shown)
    elif context.quiet:
        print(cluster["cluster"])
    else:
        _show(shown, nodes)
    return 0


def _watched(found: endpoint.Endpoint) -> bool:
    return found.state is not None and supervised(found.state)


def _daemon(local: dict[str, Any], part: str) -> dict[str, Any]:
    facts = local.get(part, {})
    return {"url": facts.get("url"), "pid": facts.get("pid"), "crashes": facts.get("crashes", 0)}


def _show(shown: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    host, runner = shown["host"], shown["runner"]
    online = sum(1 for node in nodes if node["state"] == NodeState.ONLINE)
    drained = sum(1 for node in nodes if node["drained"])
    versions = (
        shown["version"] if shown["version"] == __version__ else f"{shown['version']}, this is {__version__}"
    )
    output.facts(
        [
            ("cluster", Cell(shown["label"], "bold")),
            ("id", shown["cluster"]),
            ("version", versions),
            ("you are", shown["subject"]),
            ("host", _place(host)),
            ("runner", _place(runner) if runner["url"] else None),
            ("supervisor", _supervisor(shown)),
            (
                "nodes",
                Cell(
                    f"{online} of {len(nodes)} online{f' ({drained} drained)' if drained else ''}",
                    "green" if online and online == len(nodes) else "red",
                ),
            ),
            (
                "tasks",
                ", ".join(f"{count} {state}" for state, count in shown["tasks"].items()) or "none live",
            ),
        ]
    )


def _place(daemon: dict[str, Any]) -> str:
    parts = [daemon["url"]]
    if daemon["pid"]:
        parts.append(f"pid {daemon['pid']}")
    if daemon["crashes"]:
        parts.append(f"restarted {daemon['crashes']} times")
    return ", ".join(parts)


def _supervisor(shown: dict[str, Any]) -> str | Cell | None:
    if shown["state_dir"] is None:
        return None
    pid = shown["supervisor"]["pid"]
    return f"pid {pid}" if pid else Cell("gone: hakuriver up starts a new one", "red")


def watch(context: Context, _: argparse.Namespace) -> int:
    """Every change as it happens, until Ctrl-C."""
    states: dict[str, str] = {}
    for line in follow.changes(context):
        if context.json:
            output.print_line(line)
        elif not _measured(line, states):
            _print_change(line)
    return 0


def _measured(line: dict[str, Any], states: dict[str, str]) -> bool:
    """Whether only what a node uses changed, which people don't read line by line."""
    for node in [line["node"]] if line["type"] == "node" else line.get("nodes", []):
        known = states.get(node["name"])
        states[node["name"]] = node["state"]
        if line["type"] == "node" and known == node["state"]:
            return True
    return False


def _print_change(line: dict[str, Any]) -> None:
    at = time.strftime("%H:%M:%S")
    kind = line["type"]
    if kind == "snapshot":
        print(f"{at} watching {len(line['nodes'])} nodes and {len(line['tasks'])} tasks", flush=True)
    elif kind == "task":
        task = line["task"]
        where = f" on {task['node']}" if task["node"] else ""
        why = task["error"] or task["reason"]
        tail = f": {why}" if why else ""
        state = output.paint(task["state"], output.STYLES.get(task["state"], ""))
        print(f"{at} task {task['id']} {state}{output.shown(where + tail)}", flush=True)
    elif kind == "node":
        node = line["node"]
        state = output.paint(node["state"], output.STYLES.get(node["state"], ""))
        print(f"{at} node {output.shown(node['name'])} {state}", flush=True)
    elif kind == "deleted":
        print(
            f"{at} {'task' if 'id' in line else 'node'} {line.get('id', line.get('name'))} removed",
            flush=True,
        )


VERBS = {
    "status": Verb(status, examples=("hakuriver status", "hakuriver --json status --state-dir /tmp/try")),
    "watch": Verb(watch, examples=("hakuriver --json watch | jq -c 'select(.type==\"task\")'",)),
}
