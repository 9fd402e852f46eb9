"""Typed settings. Every key has its one default here; docs and README are checked against this module.

Order of strength: flag > environment variable ``HAKURIVER_<SECTION>_<KEY>`` > config file > default.
Reading is stdlib only (the CLI does it on every call); writing keeps comments and lives in ``cli.init``.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from hakuriver import units
from hakuriver.errors import ConfigError, HakuRiverError

DEFAULT_PATH = "~/.hakuriver/config.toml"


def _setting(default: Any, doc: str) -> Any:
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Network:
    host_bind_ip: str = _setting(
        "127.0.0.1", "address the host listens on; others need TLS or --insecure-bind"
    )
    host_port: int = _setting(8000, "port of the host's API")
    host_reachable_address: str = _setting("127.0.0.1", "address at which runners and clients find the host")
    runner_bind_ip: str = _setting("127.0.0.1", "address the runner listens on; others need --insecure-bind")
    runner_address: str = _setting(
        "", "address, or address:port, at which the host finds this runner; empty = route to the host"
    )
    runner_port: int = _setting(8001, "port of the runner's API")


@dataclass(frozen=True, slots=True)
class Paths:
    state_dir: str = _setting("", "database, journal, attempts; empty = ~/.local/state/hakuriver")
    shared_dir: str = _setting("", "storage that all nodes see; empty = a folder in the local state folder")
    local_temp_dir: str = _setting(
        "", "fast local space for tasks; empty = a folder in the local state folder"
    )
    credentials_dir: str = _setting(
        "", "folder of the 0600 token files; empty = credentials in the state folder"
    )


@dataclass(frozen=True, slots=True)
class Node:
    name: str = _setting("", "name of this node; empty = the host name")
    labels: tuple[str, ...] = _setting((), "KEY=VALUE labels that tasks can ask for with --label")
    reserve_cores: float = _setting(0.0, "cores of this node that tasks never get")
    reserve_memory: int = _setting(0, "memory of this node that tasks never get (sizes such as 4GiB)")


@dataclass(frozen=True, slots=True)
class Environment:
    runner_user: str = _setting(
        "", "user that tasks without a container run as; empty = the user that starts the runner"
    )


@dataclass(frozen=True, slots=True)
class Policy:
    mount_roots: tuple[str, ...] = _setting((), "folders of a node that tasks may mount; empty = none")
    allow_privileged: bool = _setting(False, "whether tasks on this node may run privileged containers")


@dataclass(frozen=True, slots=True)
class Timing:
    heartbeat_interval: float = _setting(5.0, "seconds between two heartbeats of a runner")
    heartbeat_timeout_factor: float = _setting(6.0, "a node is unreachable after interval × factor")
    kill_grace: float = _setting(10.0, "seconds between TERM and KILL")
    lease: float = _setting(60.0, "seconds without the host after which a node ends tasks that may move on")


@dataclass(frozen=True, slots=True)
class Limits:
    max_queued: int = _setting(100_000, "pending tasks an owner may have; more are refused with 429")
    owner_tasks: int = _setting(0, "tasks of one owner that may run at a time; 0 = no limit")
    owner_cores: float = _setting(0.0, "cores that one owner may have at a time; 0 = no limit")
    owner_gpus: int = _setting(0, "GPUs that one owner may have at a time; 0 = no limit")
    log_cap: int = _setting(2**30, "bytes kept of a log stream; the middle goes first (sizes such as 1GiB)")


@dataclass(frozen=True, slots=True)
class Retention:
    task_days: float = _setting(
        90.0, "days after its end at which the host forgets a task and its log copies"
    )
    task_count: int = _setting(100_000, "ended tasks that the host keeps; the oldest go first")
    attempt_days: float = _setting(30.0, "days for which a node keeps the folder of an ended attempt")
    attempt_count: int = _setting(10_000, "ended attempts whose folders a node keeps; the oldest go first")


@dataclass(frozen=True, slots=True)
class Docker:
    container_dir: str = _setting(
        "hakuriver-containers", "folder of the environments' tarballs, in shared_dir where it is relative"
    )
    default_container_name: str = _setting("hakuriver-base", "environment of a task that names none")
    initial_base_image: str = _setting(
        "python:3.12-slim", "image that the default environment is made of; empty = it isn't made"
    )
    keep_versions: int = _setting(3, "newest versions of an environment that are kept; older ones go")
    environment_cores: float = _setting(2.0, "cores that an environment's container on the host may use")
    environment_memory: int = _setting(
        8 * 2**30, "memory that an environment's container on the host may use (sizes such as 8GiB)"
    )
    task_user: str = _setting(
        "root", "root, or submitter: whom containers run as where the task says nothing; files get that owner"
    )
    tasks_privileged: bool = _setting(False, "whether tasks are privileged when they don't say")
    additional_mounts: tuple[str, ...] = _setting((), "HOST:CONTAINER mounts of tasks that ask for none")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings and, per ``section.key``, what decided it: flag, env, file or default."""

    network: Network = field(default_factory=Network)
    paths: Paths = field(default_factory=Paths)
    node: Node = field(default_factory=Node)
    environment: Environment = field(default_factory=Environment)
    policy: Policy = field(default_factory=Policy)
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    docker: Docker = field(default_factory=Docker)
    origin: Mapping[str, str] = field(default_factory=dict)

    def items(self) -> list[tuple[str, Any, str]]:
        """``(section.key, value, origin)`` of every setting, in the order of the reference."""
        return [
            (key, getattr(getattr(self, section), name), self.origin.get(key, "default"))
            for key, (section, name, _, _) in SETTINGS.items()
        ]


_SECTIONS: dict[str, type] = {
    "network": Network,
    "paths": Paths,
    "node": Node,
    "environment": Environment,
    "policy": Policy,
    "timing": Timing,
    "limits": Limits,
    "retention": Retention,
    "docker": Docker,
}
SETTINGS: dict[str, tuple[str, str, Any, str]] = {
    f"{section}.{each.name}": (section, each.name, get_type_hints(kind)[each.name], each.metadata["doc"])
    for section, kind in _SECTIONS.items()
    for each in fields(kind)
}
"""``section.key`` → (section, key, type, what it means)."""

_SIZES = frozenset({"limits.log_cap", "node.reserve_memory", "docker.environment_memory"})
_ONE_OF: dict[str, tuple[str, ...]] = {"docker.task_user": ("root", "submitter")}
_AT_LEAST: dict[str, float] = {
    "network.host_port": 0,
    "network.runner_port": 0,
    "timing.heartbeat_interval": 0.05,
    "timing.heartbeat_timeout_factor": 2,
    "timing.kill_grace": 0,
    "timing.lease": 1,
    "limits.max_queued": 1,
    "limits.log_cap": 65536,
    "limits.owner_tasks": 0,
    "limits.owner_cores": 0,
    "limits.owner_gpus": 0,
    "node.reserve_cores": 0,
    "node.reserve_memory": 0,
    "docker.keep_versions": 1,
    "docker.environment_cores": 0.01,
    "docker.environment_memory": 2**23,
    "retention.task_days": 0,
    "retention.task_count": 0,
    "retention.attempt_days": 0,
    "retention.attempt_count": 0,
}
_AT_MOST: dict[str, float] = {
    "network.host_port": 65535,
    "network.runner_port": 65535,
    "timing.heartbeat_interval": 3600,
    "timing.heartbeat_timeout_factor": 1000,
    "timing.kill_grace": 3600,
    "timing.lease": 86400,
    "docker.keep_versions": 10_000,
    "docker.environment_cores": 10_000,
    "retention.task_days": 36500,
    "retention.attempt_days": 36500,
}


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the config file is looked for when no flag names one."""
    return Path(environ.get("HAKURIVER_CONFIG") or DEFAULT_PATH).expanduser()


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from every source; a missing file is fine unless ``path`` names it; raises ConfigError."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in _from_file(path, environ).items():
        values[key], origin[key] = value, "file"
    for key in SETTINGS:
        variable = f"HAKURIVER_{key.replace('.', '_').upper()}"
        if variable in environ:
            values[key] = _from_text(key, environ[variable], variable)
            origin[key] = f"env {variable}"
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origin[key] = _checked(key, value, f"flag for {key}"), "flag"
    sections = {
        section: kind(
            **{
                name: values[key]
                for key, (s, name, _, _) in SETTINGS.items()
                if s == section and key in values
            }
        )
        for section, kind in _SECTIONS.items()
    }
    return Settings(**sections, origin=origin)


def _from_file(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    used = path or config_path(environ)
    try:
        tree = tomllib.loads(used.read_text("utf-8"))
    except FileNotFoundError:
        if path is None and "HAKURIVER_CONFIG" not in environ:
            return {}
        raise ConfigError(
            f"config file {used} does not exist", hint="hakuriver init config writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {used} can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {used} is not valid TOML: {error}") from error
    values: dict[str, Any] = {}
    for section, body in tree.items():
        if section not in _SECTIONS:
            raise _unknown(f"[{section}]", section, list(_SECTIONS), used)
        if not isinstance(body, dict):
            raise ConfigError(f"{used}: {section} must be a section, write [{section}]")
        for name, value in body.items():
            key = f"{section}.{name}"
            if key not in SETTINGS:
                raise _unknown(f"[{section}] {name}", key, list(SETTINGS), used)
            values[key] = _checked(key, value, f"{used}: [{section}] {name}")
    return values


def _unknown(shown: str, key: str, known: list[str], path: Path) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    tail = {name.rpartition(".")[2]: name for name in known}
    if not near:
        near = [tail[each] for each in difflib.get_close_matches(key.rpartition(".")[2], list(tail), n=1)]
    hint = f"did you mean {near[0]}?" if near else "hakuriver config show lists all keys"
    return ConfigError(f"{path}: unknown key {shown}", hint=hint)


def _from_text(key: str, text: str, where: str) -> Any:
    kind = SETTINGS[key][2]
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        if kind is int:
            return _checked(key, text if key in _SIZES else int(text), where)
        if kind is float:
            return _checked(key, float(text), where)
    except (KeyError, ValueError):
        raise ConfigError(f"{where}={text!r} is not a {kind.__name__}") from None
    if kind is str:
        return _checked(key, text, where)
    return tuple(part for part in text.split(os.pathsep) if part)


def _checked(key: str, value: Any, where: str) -> Any:
    kind = SETTINGS[key][2]
    if key in _SIZES and isinstance(value, str):
        try:
            value = units.parse_size(value)
        except HakuRiverError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in (int, float, str, bool):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{where} must be a {kind.__name__}, not {value!r}")
    elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    else:
        raise ConfigError(f"{where} must be a list of strings, not {value!r}")
    if key in _ONE_OF and value not in _ONE_OF[key]:
        raise ConfigError(f"{where} = {value!r} is none of {', '.join(_ONE_OF[key])}")
    if key in _AT_LEAST and not value >= _AT_LEAST[key]:
        raise ConfigError(f"{where} = {value} is too small, the least is {_AT_LEAST[key]:g}")
    if key in _AT_MOST and not value <= _AT_MOST[key]:
        raise ConfigError(f"{where} = {value} is too large, the most is {_AT_MOST[key]:g}")
    return value
