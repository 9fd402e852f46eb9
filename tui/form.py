"""The submit form without its widgets: fields as typed → a request, or what is wrong with which field."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hakuriver import sweep, target, units
from hakuriver.cli import ids, values
from hakuriver.errors import UsageError
from hakuriver.fields import MAX_BATCH
from hakuriver.views import EnvironmentView, NodeView, TaskView
from hakuriver.wire import SubmitRequest
from tui.environments import wrong_reference


@dataclass(frozen=True, slots=True)
class Field:
    """One thing to fill in; a ``flag`` is ticked (``yes``) or not."""

    id: str
    label: str
    placeholder: str
    flag: bool = False


ROWS: tuple[tuple[Field, ...], ...] = (
    (Field("command", "Command", "python train.py --lr 0.1   (a shell: sh -c '…')"),),
    (Field("target", "Target", "anywhere; node[:numa][::gpu,…], several with spaces"),),
    (Field("cores", "Cores", "1"), Field("memory", "Memory", "no cap; 512M, 4G, 4GiB")),
    (Field("gpus", "GPUs", "none; 2, or 2:a100"), Field("gpu_memory", "each with", "any; 24G")),
    (Field("name", "Name", "unique among living tasks"), Field("tags", "Tags", "with spaces")),
    (
        Field("container", "Container", "the default; ENV, ENV@VERSION; NULL = none"),
        Field("image", "or image", "python:3.12-slim"),
    ),
    (Field("env", "Variables", "KEY=VALUE KEY2='with spaces'"),),
    (
        Field("time_limit", "At most", "no limit; 30m, 2h, 1d"),
        Field("notice", "warned", "no; 5m, or TERM@5m"),
    ),
    (Field("retries", "Retries", "0"), Field("priority", "Priority", "0; higher goes first")),
    (Field("after", "After", "tasks: 7 9-12 name"), Field("labels", "Labels", "of the node: room=b12")),
    (
        Field("sweep", "Sweep", "a task for each span: in the command", flag=True),
        Field("max_running", "at a time", "all of the batch"),
    ),
    (
        Field("hold", "Hold", "waits for a release", flag=True),
        Field("pin", "Pin", "cores of its own", flag=True),
    ),
)
FIELDS: tuple[Field, ...] = tuple(field for row in ROWS for field in row)
_YES = "yes"


@dataclass(frozen=True, slots=True)
class Parsed:
    """``body`` is the request when ``errors`` (field → one line) is empty."""

    body: dict[str, Any]
    errors: Mapping[str, str]


def parse(
    typed: Mapping[str, str],
    nodes: Mapping[str, NodeView],
    names: Mapping[str, int],
    environments: Mapping[str, EnvironmentView],
) -> Parsed:
    """What the fields mean. ``nodes`` and ``environments`` are the known ones; with none known, any name
    passes. ``names``: the ids of living tasks by name."""
    readers: dict[str, Callable[[str], Any]] = {
        "command": _words,
        "target": lambda text: [_target(word, nodes) for word in _words(text)],
        "cores": units.parse_cores,
        "memory": units.parse_size,
        "gpus": values.gpus,
        "gpu_memory": units.parse_size,
        "tags": _words,
        "env": lambda text: dict(map(_variable, _words(text))),
        "time_limit": values.positive,
        "notice": values.notice,
        "retries": _whole,
        "priority": _whole,
        "after": lambda text: [_task(each, names) for each in ids.parse(text.split())],
        "container": lambda text: _environment(text, environments),
        "labels": lambda text: dict(map(values.label, _words(text))),
        "max_running": _whole,
    }
    body: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in FIELDS:
        text = typed.get(field.id, "").strip()
        if not text:
            continue
        try:
            found: Any = text == _YES if field.flag else readers.get(field.id, str)(text)
        except UsageError as error:
            errors[field.id] = error.message
            continue
        if field.id == "gpus":
            body |= {"gpu_count": found[0]} | ({"gpu_model": found[1]} if found[1] else {})
        else:
            body[_WIRE.get(field.id, field.id)] = found
    if not typed.get("command", "").strip():
        errors["command"] = "what should run?"
    return Parsed(body, errors or _contradictions(body) or _refused(body))


_WIRE = {"target": "targets"}
_FIELD = {"targets": "target", "gpu_count": "gpus", "gpu_model": "gpus"}


def _contradictions(body: Mapping[str, Any]) -> dict[str, str]:
    """What is right by itself, but not together."""
    targets = body.get("targets", ())
    notice, limit = body.get("notice"), body.get("time_limit")
    cores = body.get("cores", 1)
    wrong = {
        "image": "either a container or an image" if body.get("container") and body.get("image") else "",
        "gpus": "the target names GPUs: give one of the two"
        if body.get("gpu_count") and any(target.parse(each).gpus for each in targets)
        else "",
        "gpu_memory": "how many GPUs?" if body.get("gpu_memory") and not body.get("gpu_count") else "",
        "pin": "whole cores only" if body.get("pin") and (cores < 1 or cores % 1) else "",
        "notice": "comes before the end of a time limit"
        if notice and (limit is None or notice["seconds"] >= limit)
        else "",
        "max_running": "is for a sweep, or several targets"
        if body.get("max_running") and not body.get("sweep") and len(targets) < 2
        else "",
        "sweep": _not_a_sweep(body) if body.get("sweep") else "",
    }
    return {field: text for field, text in wrong.items() if text}


def _not_a_sweep(body: Mapping[str, Any]) -> str:
    try:
        found = sweep.parse(body["command"])
    except UsageError as error:
        return error.message
    if not found.axes:
        return "no span: in the command; write span:{1..5} or span:[a,b,c]"
    count = len(found) * max(1, len(body.get("targets", ())))
    return f"{count} tasks, the most is {MAX_BATCH}" if count > MAX_BATCH else ""


def has_span(command: str) -> bool:
    """Whether the command, as typed, could be a sweep."""
    try:
        return "span:" in command and bool(sweep.parse(shlex.split(command)).axes)
    except (ValueError, UsageError):
        return False


def preview(body: Mapping[str, Any]) -> str:
    """What will run: the argv, or of a sweep its axes, how many tasks they make, and the first argv."""
    argv = body.get("command")
    if not argv:
        return ""
    copies = max(1, len(body.get("targets", ())))
    if not body.get("sweep"):
        times = f"{copies} tasks · " if copies > 1 else ""
        return f"{times}argv {argv!r}"
    try:
        found = sweep.parse(argv)
    except UsageError as error:
        return error.message
    return f"{found.summary('task', copies)} · the first: {shlex.join(next(found.runs()))}"


def _refused(body: Mapping[str, Any]) -> dict[str, str]:
    """What the host's own type says, by field."""
    try:
        SubmitRequest.model_validate(body)
    except ValidationError as error:
        found: dict[str, str] = {}
        for each in error.errors(include_url=False):
            name = str(each["loc"][0])
            text = "is not written right" if each["type"] == "string_pattern_mismatch" else each["msg"]
            found.setdefault(_FIELD.get(name, name), text.removeprefix("Value error, "))
        return found
    return {}


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{str(error).lower()}: write a quote in quotes") from None


def _target(text: str, nodes: Mapping[str, NodeView]) -> str:
    parsed = target.parse(text)
    if not nodes:
        return str(parsed)
    node = nodes.get(parsed.node)
    if node is None:
        raise UsageError(f"there is no node {parsed.node!r}")
    if parsed.numa is not None and parsed.numa not in {each["id"] for each in node["numa"]}:
        raise UsageError(f"{parsed.node} has no NUMA node {parsed.numa}")
    devices = {gpu["index"]: gpu for gpu in node["gpus"]}
    for index in parsed.gpus:
        if index not in devices:
            raise UsageError(f"{parsed.node} has no GPU {index}")
        if parsed.numa is not None and devices[index]["numa"] not in (None, parsed.numa):
            raise UsageError(f"GPU {index} of {parsed.node} is on NUMA node {devices[index]['numa']}")
    return str(parsed)


def _environment(text: str, known: Mapping[str, EnvironmentView]) -> str:
    if wrong := wrong_reference(text, known):
        raise UsageError(wrong)
    return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a whole number") from None


def _task(found: int | str, names: Mapping[str, int]) -> int:
    if isinstance(found, int):
        return found
    if found not in names:
        raise UsageError(f"there is no living task {found!r}")
    return names[found]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is not KEY=VALUE")
    return name, value


def completion(text: str, nodes: Collection[str]) -> str | None:
    """The text with its last word completed to the first node name that fits."""
    head, _, last = text.rpartition(" ")
    if not last or ":" in last:
        return None
    found = next((name for name in sorted(nodes) if name.startswith(last) and name != last), None)
    if found is None:
        return None
    return f"{head} {found}" if head else found


def with_gpus(text: str, count: int) -> str:
    """The GPUs field with another number; the model stays."""
    _, colon, model = text.partition(":")
    return f"{count}{colon}{model}" if count else ""


def count_of(text: str) -> int:
    """The number in the GPUs field, 0 when there is none."""
    try:
        return values.gpus(text.strip())[0] if text.strip() else 0
    except UsageError:
        return 0


def from_task(task: TaskView) -> dict[str, str]:
    """The fields that would submit a task again."""
    wants = task["wants"]
    model = f":{wants['gpu_model']}" if wants.get("gpu_model") else ""
    limit = task["time_limit"]
    return {
        "command": shlex.join(task["command"]),
        "target": task["target"] or "",
        "cores": units.format_cores(task["cores"]),
        "memory": str(task["memory"] or ""),
        "gpus": f"{wants['gpu_count']}{model}" if wants.get("gpu_count") else "",
        "gpu_memory": str(wants.get("gpu_memory", "")),
        "tags": shlex.join(task["tags"]),
        "container": "" if task["image"] and task["container"] else task["container"] or "",
        "image": task["image"] or "",
        "time_limit": "" if limit is None else f"{limit:g}s",
        "retries": str(task["retries"] or ""),
        "priority": str(task["priority"] or ""),
        "labels": " ".join(f"{key}={value}" for key, value in wants.get("labels", {}).items()),
        "pin": _YES if wants.get("pin") else "",
    }
