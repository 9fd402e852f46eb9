"""The environment of a task: built from what the task was given, never inherited from a daemon."""

from __future__ import annotations

from dataclasses import dataclass

from hakuriver.wire import AttemptSpec

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """The user that process tasks run as."""

    name: str
    home: str
    shell: str


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
    return found | {"HAKURIVER_SHARED_DIR": shared, "HAKURIVER_LOCAL_TEMP_DIR": temp}


def process_variables(
    spec: AttemptSpec, account: Account, *, node: str, shared: str, temp: str
) -> dict[str, str]:
    """The whole environment of a process task."""
    base = {
        "PATH": STANDARD_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
    }
    return base | own_variables(spec, node=node, shared=shared, temp=temp) | spec.env


def container_variables(spec: AttemptSpec, *, node: str) -> dict[str, str]:
    """What is added to the environment of an image."""
    return own_variables(spec, node=node, shared="/shared", temp="/local_temp") | spec.env
