"""The environment of a task: built from what the task was given, never inherited from a daemon."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Any

from hakuriver.errors import ConfigError
from hakuriver.nodewire import AttemptSpec

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that tasks without a container run as. ``other``: ids and groups, where that isn't the
    runner's own user."""

    name: str
    home: str
    shell: str
    other: dict[str, Any] | None = None


def account(name: str) -> Account:
    """The user of this name, for an empty one that of this process; raises ConfigError. Blocking."""
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        if name:
            raise ConfigError(f"[environment] runner_user {name} is no user of this machine") from None
        return Account(str(os.geteuid()), "/", "/bin/sh")
    other = None
    if entry.pw_uid != os.geteuid():
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        other = {"name": entry.pw_name, "uid": entry.pw_uid, "gid": entry.pw_gid, "groups": groups}
    return Account(entry.pw_name, entry.pw_dir, entry.pw_shell or "/bin/sh", other)


def own_variables(spec: AttemptSpec, *, node: str, shared: str, temp: str) -> dict[str, str]:
    """What HakuRiver tells every task; the folders as the task sees them."""
    found = {
        "HAKURIVER_TASK_ID": str(spec.task),
        "HAKURIVER_ATTEMPT": str(spec.attempt),
        "HAKURIVER_NODE": node,
        "HAKURIVER_TARGET": spec.target,
    }
    if spec.numa is not None:
        found["HAKURIVER_TARGET_NUMA_NODE"] = str(spec.numa)
    if spec.gpus:
        found["HAKURIVER_GPUS"] = ",".join(map(str, spec.gpus))
    found |= {
        "HAKURIVER_BATCH_INDEX": str(spec.batch_index),
        "HAKURIVER_BATCH_SIZE": str(spec.batch_size),
    }
    return found | {"HAKURIVER_SHARED_DIR": shared, "HAKURIVER_LOCAL_TEMP_DIR": temp}


def process_variables(
    spec: AttemptSpec, account: Account, *, node: str, shared: str, temp: str, tools: str, gpus: bool
) -> dict[str, str]:
    """The whole environment of a task without a container. ``tools``: a folder of our own programs, last on
    PATH whoever set that; ``gpus``: whether the node has any. Then a task sees those that it was given, by
    UUID because CUDA has an order of its own, and without any it sees none; it may set that itself."""
    base = {
        "PATH": STANDARD_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
    }
    if gpus or spec.gpu_uuids:
        base["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpu_uuids)
    found = base | own_variables(spec, node=node, shared=shared, temp=temp) | spec.env
    return found | {"PATH": f"{found['PATH']}:{tools}"}


def container_variables(spec: AttemptSpec, *, node: str, gpus: bool) -> dict[str, str]:
    """What is added to the environment of an image. Most images with CUDA ask for all GPUs by a variable, and
    an engine whose default runtime is NVIDIA's grants that: a task without GPUs takes it back."""
    none = {"NVIDIA_VISIBLE_DEVICES": "void"} if gpus and not spec.gpu_uuids else {}
    return none | own_variables(spec, node=node, shared="/shared", temp="/local_temp") | spec.env
