"""What a container is made of: from an attempt to the engine's own words. Policy is checked here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from daemons.common.engine import LABEL_CLUSTER
from daemons.runner import binding
from daemons.runner.environment import container_variables
from daemons.runner.executors.engine import LABEL_ATTEMPT, LABEL_RUNNER
from daemons.runner.model import Attempt
from hakuriver.errors import POLICY, NotAllowed, UsageError
from hakuriver.nodewire import AttemptSpec, NumaFacts
from hakuriver.wire import Mount as WireMount

WRAPPER = (
    '(set -C; : >/.hakuriver/claim) 2>/dev/null || exit 125; exec "$@" >>/.hakuriver/out 2>>/.hakuriver/err'
)
NO_CLAIM = 125


@dataclass(frozen=True, slots=True)
class Rules:
    """What containers of this node may do, and what they get without asking."""

    node: str
    runner: str
    attempts: Path
    shared: Path
    temp: Path
    mount_roots: tuple[str, ...]
    allow_privileged: bool
    privileged: bool
    additional_mounts: tuple[str, ...]
    cpus: float
    numa: tuple[NumaFacts, ...]
    has_gpus: Callable[[], bool]
    hakurun: Path


def name_of(attempt: Attempt) -> str:
    """The container's name."""
    return f"hakuriver-{attempt.cluster[:8]}-{attempt.spec.task}-{attempt.spec.attempt}"


def check(spec: AttemptSpec, rules: Rules) -> None:
    """Raise what this node will never allow. Blocking."""
    if spec.image is None:
        raise UsageError("a container needs an image")
    if spec.stdin:
        raise UsageError("a container can't be given a standard input yet")
    if (rules.privileged if spec.privileged is None else spec.privileged) and not rules.allow_privileged:
        raise NotAllowed(
            f"a privileged container is against the policy of node {rules.node}",
            hint="[policy] allow_privileged = true on that node allows them",
            code=POLICY,
        )
    binding.check(spec, rules.numa, rules.node)
    mounts(spec, rules)


def mounts(spec: AttemptSpec, rules: Rules) -> list[Mount]:
    """The task's own mounts, by policy; without any, the node's additional ones."""
    if spec.mounts is None:
        return [_additional(text) for text in rules.additional_mounts]
    return [_allowed(each, rules) for each in spec.mounts]


def _allowed(mount: WireMount, rules: Rules) -> Mount:
    """A mount whose source, all links followed, lies in a folder that policy names."""
    try:
        source = Path(mount.source).resolve(strict=True)
    except (OSError, RuntimeError):
        raise UsageError(f"{mount.source} does not exist on node {rules.node}") from None
    roots = [Path(root).resolve() for root in rules.mount_roots]
    if not any(source.is_relative_to(root) for root in roots):
        raise NotAllowed(
            f"to mount {mount.source} is against the policy of node {rules.node}",
            hint=f"[policy] mount_roots there: {', '.join(rules.mount_roots) or 'none'}",
            code=POLICY,
        )
    if Path(mount.target).is_relative_to("/.hakuriver") or Path(mount.target) == Path("/"):
        raise UsageError(f"nothing can be mounted at {mount.target}")
    return Mount(mount.target, str(source), type="bind", read_only=mount.read_only)


def _additional(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise UsageError(f"[docker] additional_mounts: {text!r} is not HOST:CONTAINER[:ro]")
    return Mount(target, source, type="bind", read_only=mode == "ro")


def request(
    api: docker.APIClient, attempt: Attempt, image: dict[str, Any], rules: Rules, *, wrapped: bool, init: bool
) -> dict[str, Any]:
    """The arguments of ``create_container``."""
    spec = attempt.spec
    entry: list[str] = (image.get("Config") or {}).get("Entrypoint") or []
    argv = [*(entry if entry != [""] else ()), *spec.command]  # which is how a commit takes one away
    if wrapped:
        argv = ["/bin/sh", "-c", WRAPPER, "hakuriver", *argv]
    return {
        "image": image["Id"],
        "name": name_of(attempt),
        "entrypoint": argv[:1],
        "command": argv[1:],
        "environment": container_variables(spec, node=rules.node, gpus=rules.has_gpus()),
        "working_dir": spec.workdir,
        "user": spec.user,
        "labels": {
            LABEL_CLUSTER: attempt.cluster,
            LABEL_RUNNER: rules.runner,
            LABEL_ATTEMPT: attempt.name,
        },
        "host_config": api.create_host_config(
            **_limits(spec, rules), **_binding(attempt, rules), **_host(attempt, image, rules, wrapped, init)
        ),
    }


def _host(attempt: Attempt, image: dict[str, Any], rules: Rules, wrapped: bool, init: bool) -> dict[str, Any]:
    spec = attempt.spec
    own = [Mount("/.hakuriver", str(rules.attempts / attempt.name / "io"), type="bind")] if wrapped else []
    own += [
        Mount("/shared", str(rules.shared), type="bind"),
        Mount("/local_temp", str(rules.temp), type="bind"),
    ]
    asked = mounts(spec, rules)
    own += _hakurun(image, rules, asked)
    taken = {each["Target"] for each in asked}
    return {
        "mounts": [each for each in own if each["Target"] not in taken] + asked,
        "init": init,
        "restart_policy": {"Name": "no"},  # whoever sees it dead must be right for ever
        "privileged": rules.privileged if spec.privileged is None else spec.privileged,
        "log_config": LogConfig(type="none") if wrapped else LogConfig(type="json-file"),
        **({"network_mode": "none"} if spec.private_network else {}),
    }


def _limits(spec: AttemptSpec, rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if spec.cores:
        found["nano_cpus"] = int(max(0.01, min(spec.cores, rules.cpus)) * 10**9)
    if spec.memory:
        found |= {"mem_limit": spec.memory, "memswap_limit": spec.memory, "shm_size": spec.memory // 2}
    if spec.shm_size is not None:
        found["shm_size"] = spec.shm_size
    if spec.ulimits:
        found["ulimits"] = [
            Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in spec.ulimits.items()
        ]
    return found


def _binding(attempt: Attempt, rules: Rules) -> dict[str, Any]:
    """The CPUs, the memory and the GPUs that are its own; GPUs by UUID, as no counting can confuse."""
    spec, found = attempt.spec, dict[str, Any]()
    if attempt.cpus:
        found["cpuset_cpus"] = ",".join(map(str, attempt.cpus))
    if nodes := binding.memory_nodes(spec, rules.numa):
        found["cpuset_mems"] = ",".join(map(str, nodes))
    if spec.gpu_uuids:
        found["device_requests"] = [DeviceRequest(device_ids=spec.gpu_uuids, capabilities=[["gpu"]])]
    return found


def not_started(message: str, rules: Rules) -> str:
    """Why the engine didn't start a container, and what to do where the engine doesn't say it."""
    if "could not select device driver" in message:
        message = (
            f"node {rules.node} can't give GPUs to containers (its engine needs the NVIDIA container toolkit)"
        )
    return f"the engine can't start it: {message}"


def _hakurun(image: dict[str, Any], rules: Rules, asked: list[Mount]) -> list[Mount]:
    """Our own program, on the image's PATH; not below a mount of the task, where it would leave a file."""
    variables = dict(each.partition("=")[::2] for each in (image.get("Config") or {}).get("Env") or ())
    path = [each for each in variables.get("PATH", "").split(":") if each.startswith("/")]
    target = Path("/usr/local/bin" if "/usr/local/bin" in path or not path else path[-1]) / "hakurun"
    if any(target.is_relative_to(each["Target"]) for each in asked):
        return []
    return [Mount(str(target), str(rules.hakurun), type="bind", read_only=True)]
