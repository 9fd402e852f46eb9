"""The submit form without its widgets: fields as typed → a request, or what is wrong with which field."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hakuriver import target, units
from hakuriver.errors import UsageError
from hakuriver.views import TaskView
from hakuriver.wire import SubmitRequest


@dataclass(frozen=True, slots=True)
class Field:
    id: str
    label: str
    placeholder: str


FIELDS: tuple[Field, ...] = (
    Field("command", "Command", "python train.py --lr 0.1   (a shell: sh -c '…')"),
    Field("target", "Target", "anywhere; node[:numa][::gpu,…], several with spaces"),
    Field("cores", "Cores", "1"),
    Field("memory", "Memory", "no cap; 512M, 4G, 4GiB"),
    Field("name", "Name", "optional, unique among living tasks"),
    Field("tags", "Tags", "optional, with spaces"),
    Field("env", "Environment", "KEY=VALUE KEY2='with spaces'"),
    Field("container", "Container", "cluster's default; NULL = no container"),
    Field("image", "Image", "instead of a container: python:3.12-slim"),
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """``body`` is the request when ``errors`` (field → one line) is empty."""

    body: dict[str, Any]
    errors: Mapping[str, str]


def parse(typed: Mapping[str, str], nodes: Collection[str]) -> Parsed:
    """What the fields mean. ``nodes`` are the known node names; with none known, any name passes."""
    readers: dict[str, Callable[[str], Any]] = {
        "command": _words,
        "target": lambda text: [_target(word, nodes) for word in _words(text)],
        "cores": units.parse_cores,
        "memory": units.parse_size,
        "tags": _words,
        "env": lambda text: dict(map(_variable, _words(text))),
    }
    body: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in FIELDS:
        text = typed.get(field.id, "").strip()
        if not text:
            continue
        try:
            body[_WIRE.get(field.id, field.id)] = readers.get(field.id, str)(text)
        except UsageError as error:
            errors[field.id] = error.message
    if not typed.get("command", "").strip():
        errors["command"] = "what should run?"
    if body.get("container") and body.get("image"):
        errors["image"] = "either a container or an image"
    return Parsed(body, errors or _refused(body))


_WIRE = {"target": "targets"}
_FIELD = {wire: field for field, wire in _WIRE.items()}


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


def _target(text: str, nodes: Collection[str]) -> str:
    parsed = target.parse(text)
    if nodes and parsed.node not in nodes:
        raise UsageError(f"there is no node {parsed.node!r}")
    return str(parsed)


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


def from_task(task: TaskView) -> dict[str, str]:
    """The fields that would submit a task again."""
    return {
        "command": shlex.join(task["command"]),
        "target": task["target"] or "",
        "cores": units.format_cores(task["cores"]),
        "memory": str(task["memory"] or ""),
        "tags": shlex.join(task["tags"]),
        "container": "" if task["image"] and task["container"] else task["container"] or "",
        "image": task["image"] or "",
    }
