"""Names of environments, their versions, tarballs, images and containers: decided here, nowhere else. Pure.

An environment is a container on the host that people customise. Packed, it is a version: a tarball
``<env>-<unix time>.tar`` (the name that earlier generations wrote, too) with a sidecar beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hakuriver.errors import UsageError

NATIVE = "NULL"
"""What ``--container`` says for a task without one."""
NAME_PATTERN = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
"""What Docker takes as one part of a repository's name."""
MAX_NAME = 63
MAX_VERSION = 10**12
SIDECAR = ".json"
REPOSITORY = "hakuriver"
_NAME = re.compile(NAME_PATTERN)
_TARBALL = re.compile(rf"({NAME_PATTERN})-([0-9]{{1,12}})\.tar")
_PARTIAL = re.compile(rf"\.({NAME_PATTERN})-([0-9]{{1,12}})\.tar\.[0-9a-f]{{8,32}}\.part")


@dataclass(frozen=True, slots=True)
class Reference:
    """An environment as a task names it: ``ENV``, its current version, or ``ENV@VERSION``."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def check_name(text: str) -> str:
    """The name of an environment; raises UsageError that says what is wrong with it."""
    if len(text) > MAX_NAME:
        raise UsageError(f"environment name {text[:20]!r}… is longer than {MAX_NAME} characters")
    if _NAME.fullmatch(text):
        return text
    why = "has other characters than a-z, 0-9 and . _ - between them"
    if not text:
        why = "is empty"
    elif text != text.lower():
        why = "has upper case letters, which Docker doesn't allow"
    raise UsageError(f"{text!r} can't name an environment: it {why}", hint="for example: torch-2.4")


def parse_reference(text: str) -> Reference:
    """``ENV`` or ``ENV@VERSION``; raises UsageError."""
    name, at, version = text.partition("@")
    check_name(name)
    if not at:
        return Reference(name)
    if not re.fullmatch(r"[0-9]{1,12}", version):
        raise UsageError(
            f"{version!r} is not a version of environment {name}",
            hint=f"hakuriver env versions {name} lists them",
        )
    return Reference(name, int(version))


def tarball_name(name: str, version: int) -> str:
    """The file of a version."""
    return f"{name}-{version}.tar"


def partial_name(name: str, version: int, token: str) -> str:
    """The file of a version while it is written; ``token`` is random hexadecimal."""
    return f".{tarball_name(name, version)}.{token}.part"


def parse_tarball(file_name: str) -> Reference | None:
    """Which version a file is of, by its name."""
    found = _TARBALL.fullmatch(file_name)
    return None if found is None or len(found[1]) > MAX_NAME else Reference(found[1], int(found[2]))


def is_partial(file_name: str) -> bool:
    """Whether a file is what a writer that was killed left behind."""
    return _PARTIAL.fullmatch(file_name) is not None


def image_tag(name: str, version: int | None = None) -> str:
    """``hakuriver/<env>:<version>``; without a version the alias of the current one, ``:base``."""
    return f"{REPOSITORY}/{name}:{'base' if version is None else version}"


def is_ours(image: str) -> bool:
    """Whether an image's name is one that we make up, so that no registry can have it."""
    return image.startswith(f"{REPOSITORY}/")


def container_name(name: str) -> str:
    """The name of an environment's container on the host."""
    return f"hakuriver-env-{name}"


def next_version(now: float, last: int) -> int:
    """The number of a new version: the time in whole seconds, and above every one that ever was."""
    return max(int(now), last + 1)
