"""What a task was asked to have, in the words of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hakuriver import units
from hakuriver.cli import values

Fact = tuple[str, str | None]


def facts(task: Mapping[str, Any]) -> list[Fact]:
    """Labels and values of what was asked for beyond the plain submission; None where it wasn't."""
    wants = task["wants"]
    labels = " ".join(f"{key}={value}" for key, value in sorted(wants.get("labels", {}).items()))
    limits = [values.format_ulimit(name, bounds) for name, bounds in sorted(wants.get("ulimits", {}).items())]
    private = [what for what in ("network", "pid") if wants.get(f"private_{what}")]
    return [
        ("priority", str(task["priority"]) if task["priority"] else None),
        ("after", ", ".join(map(str, task["after"]))),
        ("on hold", f"until hakuriver task release {task['id']}" if task["on_hold"] else None),
        ("time limit", _time_limit(task)),
        ("retries", f"{task['retried']} of {task['retries']} used" if task["retries"] else None),
        ("wants gpus", gpus(wants)),
        ("labels", labels),
        ("placement", wants.get("placement")),
        ("pinned", "its cores are nobody else's" if wants.get("pin") else None),
        ("shm size", units.format_size(wants["shm_size"]) if wants.get("shm_size") else None),
        ("ulimits", " ".join(limits)),
        ("private", " ".join(private)),
        ("user", wants.get("user")),
    ]


def gpus(wants: Mapping[str, Any]) -> str:
    """``2 a100, each with 40G or more``; empty when it counts none."""
    if not wants.get("gpu_count"):
        return ""
    model = f" {wants['gpu_model']}" if wants.get("gpu_model") else ""
    memory = wants.get("gpu_memory")
    each = "each with" if wants["gpu_count"] > 1 else "with"
    return f"{wants['gpu_count']}{model}{f', {each} {units.format_size(memory)} or more' if memory else ''}"


def batch(task: Mapping[str, Any]) -> str:
    """The batch and which of its tasks this is: ``12, task 3 of 10, at most 2 at a time``."""
    if task["batch_size"] == 1:
        return str(task["batch"])
    most = f", at most {task['max_running']} at a time" if task["max_running"] else ""
    return f"{task['batch']}, task {task['batch_index'] + 1} of {task['batch_size']}{most}"


def _time_limit(task: Mapping[str, Any]) -> str | None:
    if task["time_limit"] is None:
        return None
    notice = task["wants"].get("notice")
    limit = units.format_duration(task["time_limit"])
    return f"{limit}, {values.format_notice(notice)}" if notice else limit
