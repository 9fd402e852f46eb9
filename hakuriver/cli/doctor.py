"""``doctor``: is everything in order, and what to do where it isn't."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from hakuriver import __version__, endpoint, statedir, units
from hakuriver.api import Client
from hakuriver.cli import output
from hakuriver.cli.codes import FAILED
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.local import explained, locked, start_ticks, supervised
from hakuriver.errors import HakuRiverError, Unreachable
from hakuriver.lifecycle import NodeState
from hakuriver.paths import host_path
from hakuriver.statedir import Layout

Status = Literal["ok", "warn", "fail"]
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}
DISK_WARN, DISK_FAIL = 5 * 10**9, 5 * 10**8
SKEW = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and found."""

    check: str
    status: Status
    message: str
    hint: str = ""


def doctor(context: Context, _: argparse.Namespace) -> int:
    """Look at everything; exit code 1 when something fails."""
    checks = list(_all(context))
    if context.json:
        output.print_json([asdict(each) for each in checks])
    else:
        for each in checks:
            if context.quiet and each.status == "ok":
                continue
            mark = output.paint(f"{each.status:<4}", _STYLES[each.status])
            print(f"{mark}  {each.check:<13} {output.shown(each.message)}")
            if each.hint:
                print(f"{'':<20}{output.shown(each.hint)}")
    return FAILED if any(each.status == "fail" for each in checks) else 0


def _all(context: Context) -> Iterator[Check]:
    yield _python()
    try:
        found = context.endpoint()
    except HakuRiverError as error:
        yield Check("cluster", "fail", error.message, error.hint)
        return
    yield Check("cluster", "ok", found.label)
    if found.state:
        yield from _local(found.state)
    try:
        yield from _remote(Client(found.url, found.token, timeout=5))
    except Unreachable as error:
        known = explained(found, error)
        yield Check("host", "fail", known.message, known.hint)
    except HakuRiverError as error:
        yield Check("host", "fail", error.message, error.hint)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11) and sys.platform == "linux"
    return Check("python", "ok" if good else "warn", f"{version} on {sys.platform}, HakuRiver {__version__}")


def _local(layout: Layout) -> Iterator[Check]:
    yield _state_folder(layout)
    yield _filesystem(layout)
    yield _disk(layout)
    yield _credentials(layout)
    yield _supervisor(layout)
    yield _cgroup()


def _state_folder(layout: Layout) -> Check:
    mode = layout.root.stat().st_mode & 0o777
    if mode & 0o077:
        return Check(
            "state folder", "fail", f"{layout.root} is open to others ({mode:o})", f"chmod 700 {layout.root}"
        )
    if not os.access(layout.root, os.W_OK):
        return Check("state folder", "fail", f"{layout.root} can't be written", "who started the cluster?")
    return Check("state folder", "ok", str(layout.root))


def _filesystem(layout: Layout) -> Check:
    try:
        statedir.check_local(layout.root)
    except HakuRiverError as error:
        return Check("filesystem", "fail", error.message, error.hint)
    return Check("filesystem", "ok", "the state folder is on a local disk")


def _disk(layout: Layout) -> Check:
    free = shutil.disk_usage(layout.root).free
    status: Status = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
    hint = "" if status == "ok" else "logs and the database lie there"
    return Check("disk", status, f"{units.format_size(free)} free at {layout.root}", hint)


def _credentials(layout: Layout) -> Check:
    try:
        for token in (layout.user_token, layout.node_token, layout.host_token):
            statedir.read_token(token)
    except HakuRiverError as error:
        return Check("credentials", "fail", error.message, error.hint)
    return Check("credentials", "ok", f"three private files in {layout.credentials}")


def _supervisor(layout: Layout) -> Check:
    noted = endpoint.read_cluster(layout)
    parts = [(part, noted.get(part) or {}) for part in ("host", "runner")]
    if not supervised(layout):
        orphans = [part for part, facts in parts if facts.get("pid") and start_ticks(facts["pid"])]
        if orphans:
            left = " and ".join(orphans)
            return Check(
                "supervisor", "warn", f"gone, {left} may run on without it", "hakuriver up takes over"
            )
        return Check("supervisor", "fail", _left_lock(layout), "hakuriver up starts the cluster")
    crashes = [f"{part} restarted {facts['crashes']} times" for part, facts in parts if facts.get("crashes")]
    if crashes:
        logs = f"{layout.host / 'host.log'}, {layout.runner / 'runner.log'}"
        return Check("supervisor", "warn", ", ".join(crashes), f"the logs say why: {logs}")
    return Check(
        "supervisor", "ok", f"pid {noted.get('supervisor', {}).get('pid')}, nothing had to be restarted"
    )


def _left_lock(layout: Layout) -> str:
    try:
        note = json.loads(layout.lock.read_text("utf-8"))
        whose = f"; the last one was pid {note['pid']} on {note['node']}"
    except (OSError, ValueError, KeyError):
        whose = ""
    held = locked(layout.lock)
    return f"{'held by another process' if held else 'not running'}{whose}"


def _cgroup() -> Check:
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError as error:
        return Check("cgroup", "warn", f"can't be read: {error.strerror}")
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    folder = Path("/sys/fs/cgroup") / (own or "").lstrip("/")
    if own is not None and (folder / "cgroup.controllers").exists() and os.access(folder, os.W_OK):
        return Check("cgroup", "ok", f"{folder} can be written")
    if os.access("/sys/fs/cgroup/memory", os.W_OK):
        return Check("cgroup", "ok", "the memory controller (version 1) can be written")
    return Check(
        "cgroup", "warn", "none can be written", "memory caps of process tasks are watched by measuring"
    )


def _remote(client: Client) -> Iterator[Check]:
    yield from _host(client)
    yield from _nodes(client.request("GET", host_path("nodes")))


def _host(client: Client) -> Iterator[Check]:
    began = time.time()
    with client.open("GET", host_path("cluster")) as response:
        cluster: dict[str, Any] = json.loads(response.read())
        date = response.headers.get("Date")
    took = time.time() - began
    yield Check("host", "ok", f"{client.url} answers in {took * 1000:.0f} ms as {cluster['subject']}")
    if cluster["version"] != __version__:
        yield Check(
            "version", "warn", f"the host is {cluster['version']}, this is {__version__}", "upgrade the older"
        )
    if date:
        skew = parsedate_to_datetime(date).timestamp() - began
        good = -SKEW - 1 < skew < SKEW + took
        hint = "" if good else "let both follow NTP"
        yield Check("clock", "ok" if good else "warn", f"within {abs(skew):.0f} s of the host's", hint)


def _nodes(nodes: list[dict[str, Any]]) -> Iterator[Check]:
    if not nodes:
        yield Check("nodes", "fail", "no node has joined", "start a runner; its log says why it can't join")
    for node in nodes:
        yield from _node(node)


def _node(node: dict[str, Any]) -> Iterator[Check]:
    name = f"node {node['name']}"
    if node["state"] != NodeState.ONLINE:
        yield Check(name, "fail", f"{node['state']} {node['reason']}".strip(), "is its runner running?")
        return
    yield Check(name, "ok", f"online, runs tasks by {', '.join(node['executors'])}")
    for executor, why in sorted(node["unavailable"].items()):
        yield Check(name, "warn", f"no {executor}: {why}")


VERBS: dict[str, Verb] = {"doctor": Verb(doctor, examples=("hakuriver doctor", "hakuriver doctor -q"))}
