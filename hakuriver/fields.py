"""The fields of what daemons accept: types that refuse what is wrong at the edge, in one line."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from hakuriver import environments
from hakuriver.environments import MAX_VERSION
from hakuriver.errors import UsageError
from hakuriver.target import NODE_NAME
from hakuriver.units import MAX_CORES, MAX_SIZE, check_ulimit

MAX_ARGUMENTS = 65_536
MAX_ARGUMENT = 128 * 1024  # the kernel's own limit on one argument
MAX_BATCH = 10_000


class Strict(BaseModel):
    """Unknown fields are errors: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL byte")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return text


def _node_name(text: str) -> str:
    if not NODE_NAME.match(text):
        raise ValueError("is not a node name")
    return text


def _env_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("is not the name of an environment variable")
    if text.startswith("HAKURIVER_"):
        raise ValueError("HAKURIVER_* variables are set by HakuRiver itself")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError("must be an absolute path without '..'")
    return text


def _ulimits(given: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    try:
        for name, (soft, hard) in given.items():
            check_ulimit(name, soft, hard)
    except UsageError as error:
        raise ValueError(error.message) from None
    return given


def _environment(text: str) -> str:
    try:
        return environments.check_name(text)
    except UsageError as error:
        raise ValueError(error.message) from None


def _container(text: str) -> str:
    try:
        return text if text == environments.NATIVE else str(environments.parse_reference(text))
    except UsageError as error:
        raise ValueError(error.message) from None


_PART = environments.NAME_PATTERN
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_IMAGE = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?|sha256:[0-9a-f]{12,64}"
)


def _image(text: str) -> str:
    """Nothing else: it becomes a part of an address of the engine's API."""
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not the name of an image")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
Argument = Annotated[str, StringConstraints(max_length=MAX_ARGUMENT), AfterValidator(_no_nul)]
Command = Annotated[list[Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)]
NodeName = Annotated[str, AfterValidator(_node_name)]
EnvName = Annotated[str, StringConstraints(max_length=256), AfterValidator(_env_name)]
AbsolutePath = Annotated[
    str, StringConstraints(max_length=4096), AfterValidator(_no_nul), AfterValidator(_absolute)
]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,62}$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:=-]{0,62}$")]
ImageRef = Annotated[str, StringConstraints(max_length=255), AfterValidator(_image)]
"""``[HOST[:PORT]/]NAME[:TAG][@DIGEST]`` as registries have it, or an image's id."""
ContainerName = Annotated[str, StringConstraints(max_length=80), AfterValidator(_container)]
"""``ENV``, ``ENV@VERSION`` or ``NULL``."""
EnvironmentName = Annotated[str, AfterValidator(_environment)]
UserSpec = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})(:([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}))?$"
    ),
]
"""``USER[:GROUP]``, names of the image or numbers."""
Version = Annotated[int, Field(ge=0, lt=MAX_VERSION)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Note = Annotated[str, StringConstraints(max_length=400), AfterValidator(_no_nul)]
Environment = Annotated[dict[EnvName, Argument], Field(max_length=1024)]
Cores = Annotated[float, Field(ge=0, le=MAX_CORES)]
Bytes = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Executor = Literal["process", "docker", "systemd"]
Runs = Literal["process", "docker", "systemd", "native"]
"""How a task may be asked to run: ``native`` is systemd where a node can, else process."""
Stream = Literal["stdout", "stderr"]
OnNodeLoss = Literal["keep", "requeue", "fail"]
Verb = Literal["kill", "unkill", "pause", "resume", "hold", "release"]
Placement = Literal["pack", "spread", "round-robin"]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400)]
TaskId = Annotated[int, Field(ge=1, lt=2**63)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{0,63}$")]
Labels = Annotated[dict[Label, LabelValue], Field(max_length=64)]
Ulimit = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,12}$")]
Ulimits = Annotated[
    dict[Ulimit, tuple[Annotated[int, Field(ge=-1, lt=2**63)], Annotated[int, Field(ge=-1, lt=2**63)]]],
    Field(max_length=16),
    AfterValidator(_ulimits),
]
"""Name → (soft, hard); -1 is unlimited."""


def clear_message(errors: list[Any]) -> str:
    """One line for what pydantic found: the first error, where it is, and how many more."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "body"
    text = str(first["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {text}{more}"
