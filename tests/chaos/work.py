"""Jobs given to a lab, and the check of their whole history once they have ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from hakuriver.errors import Conflict, NotFound, Unreachable
from hakuriver.paths import host_path
from tests.chaos.history import Job, Seen, violations
from tests.chaos.lab import Lab, online
from tests.waiting import until

SYSTEMD = "systemd"


def contained(kind: str | None) -> bool:
    """Whether a kind of task is an image, and not a plain process (None) or a unit (SYSTEMD)."""
    return kind not in (None, SYSTEMD)


def runs(kind: str | None) -> dict[str, str]:
    """What a request says of where a task of this kind runs."""
    return {"image": str(kind)} if contained(kind) else {"executor": kind or "process"}


def submit(
    lab: Lab, job: Job, kind: str | None = None, *, node: str = "", deadline: float | None = None
) -> int:
    """Submit a job, to a node or anywhere, until it is answered (two minutes, or ``deadline``); its id."""
    journal = "/shared/journal" if contained(kind) else str(lab.journal)
    body: dict[str, Any] = {"command": job.command(journal), "cores": 0, "name": f"job-{job.nonce}"}
    body |= runs(kind) | {"targets": [node] if node else [], "on_node_loss": job.on_node_loss}
    return lab.submit(job.nonce, body, deadline or time.monotonic() + 120)


def intend(lab: Lab, task: int, intent: str, deadline: float) -> None:
    """Ask for it until it is answered; a task may have ended by then, and be forgotten."""
    body = {"grace": 1} if intent == "kill" else {}
    while True:
        try:
            lab.client.request("POST", host_path(intent, id=task), body=body, timeout=5)
        except Unreachable:
            assert time.monotonic() < deadline, f"{intent} of {task} was never answered"
            time.sleep(0.05)
        except (Conflict, NotFound):
            return
        else:
            return


def task_of(lab: Lab, task: int) -> dict[str, Any]:
    """A task as the host shows it now."""
    found: dict[str, Any] = lab.ask("GET", host_path("task", id=task))
    return found


def reaches(lab: Lab, task: int, *states: str, seconds: float = 30) -> dict[str, Any]:
    """The task, once it is in one of these states."""

    def now() -> dict[str, Any] | None:
        found = task_of(lab, task)
        return found if found["state"] in states else None

    return until(now, f"task {task} is {' or '.join(states)}", seconds=seconds)


def node_state(lab: Lab, name: str = "n0") -> str:
    """How the host sees a node."""
    found: dict[str, Any] = lab.ask("GET", host_path("node", name=name))
    return str(found["state"])


def heard(lab: Lab, name: str = "n0") -> None:
    """Wait until a node was heard of twice from now on: its heartbeats go on and it is online."""
    times: set[str] = set()

    def thrice() -> bool:
        times.add(lab.ask("GET", host_path("node", name=name))["seen_at"])
        return len(times) > 2

    until(thrice, f"{name} is heard of", seconds=30)
    until(lambda: node_state(lab, name) == "online", f"{name} is online", seconds=30)


def settled(lab: Lab, jobs: Mapping[int, Job], *, seconds: float = 180) -> list[str]:
    """Wait until all nodes are back and all tasks have ended; what broke."""
    try:
        until(lambda: online(lab) == len(lab.runners), "all nodes are back", seconds=60)
        until(lambda: not _live(lab), "all tasks end", seconds=seconds, every=0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{_trouble(lab)}") from None
    seen: dict[int, list[Seen]] = {}
    for task in lab.tasks():
        if str(task["name"]).startswith("job-"):
            found = Seen(task, lab.log(task["id"], "stdout"), lab.log(task["id"], "stderr"))
            seen.setdefault(int(task["name"].removeprefix("job-")), []).append(found)
    with contextlib.suppress(AssertionError):  # what is told last may be swept up last
        until(lambda: not lab.alive(), "nothing runs any more", seconds=10)
    return violations(jobs, seen, lab.journal.read_text().splitlines(), lab.alive())


def broken(lab: Lab, jobs: Mapping[int, Job], *, seconds: float = 180) -> list[str]:
    """Like ``settled``, in a lab that has had jobs of other tests."""
    found = settled(lab, jobs, seconds=seconds)
    return [line for line in found if "without having been submitted" not in line]


def _live(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.ask("GET", host_path("tasks"), {"state": "live", "limit": 20})["items"]
    return found


def _trouble(lab: Lab) -> str:
    """What is needed to understand a lab that doesn't come to rest."""
    lines = [f"{task['id']} {task['name']} {task['state']} {task['reason']}" for task in _live(lab)]
    for daemon in lab.daemons:
        lines += [f"--- {daemon.name}", *daemon.log.read_text(errors="replace").splitlines()[-15:]]
    return "\n".join(lines)
