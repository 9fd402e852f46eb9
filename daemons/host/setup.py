"""How a task is run, wherever it runs: what a request says about it and what the cluster's settings do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from hakuriver.environments import image_tag, parse_reference
from hakuriver.errors import UsageError
from hakuriver.wire import Caller, SubmitRequest

_CALLER_ENV = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX")
_SHIMS = ("process", "systemd", "native")
"""Executors whose tasks are kept by a shim."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the host's settings decide about submissions."""

    embedded: bool
    default_container: str
    shared_dir: str
    task_user: str = "root"


@dataclass(frozen=True, slots=True)
class Setup:
    """How a task is run, wherever it runs."""

    executor: str
    container: str | None
    image: str | None
    workdir: str | None
    env: Mapping[str, str]
    user: str | None = None


def choose_setup(request: SubmitRequest, policy: Policy) -> Setup:
    """Executor, image, working directory and environment; raises UsageError for what can't go together."""
    executor, container, image = _choose_executor(request, policy)
    _check_options(request)
    if executor == "native" and (request.private_network or request.private_pid):
        executor = "systemd"  # a plain process can't have that
    if executor not in _SHIMS:
        if request.stdin:
            raise UsageError(
                f"standard input can't be fed to a task of executor {executor}", hint="run it without -i"
            )
    elif request.mounts or request.privileged or request.shm_size is not None or request.user:
        raise UsageError(
            "a task without a container sees the node's own files: "
            "mounts, privileges, --user and --shm-size are for containers",
            hint="leave them out, or give --container or --image",
        )
    if executor == "process" and (request.private_network or request.private_pid):
        raise UsageError(
            "a plain process can't have a network or process ids of its own",
            hint="--container NULL uses systemd where the node has it",
        )
    like_here = policy.embedded and executor == "process"
    env = dict(request.env)
    if like_here:
        env = {name: request.caller.env[name] for name in _CALLER_ENV if name in request.caller.env} | env
    inside = executor == "docker"
    workdir = request.workdir or _workdir(request.caller, policy, like_here, inside)
    user = request.user
    if inside and user is None and policy.task_user == "submitter":
        user = request.caller.user
    return Setup(executor, container, image, workdir, env, user)


def _choose_executor(request: SubmitRequest, policy: Policy) -> tuple[str, str | None, str | None]:
    if request.image and request.container:
        raise UsageError("--image and --container name two environments; give one of them")
    container = request.container
    executor: str | None = request.executor
    if executor is None:
        if request.image or container not in (None, "NULL"):
            executor = "docker"
        else:
            plain = "process" if policy.embedded else "docker"
            executor = "native" if container == "NULL" else plain
    if executor != "docker":
        if request.image or container not in (None, "NULL"):
            raise UsageError(f"executor {executor} runs without a container", hint="leave out one of the two")
        return executor, container, None
    if container == "NULL":
        raise UsageError("executor docker needs a container", hint="leave out --container NULL")
    if request.image:
        return executor, None, request.image
    reference = parse_reference(container or policy.default_container)
    return executor, str(reference), image_tag(reference.name, reference.version)


def _check_options(request: SubmitRequest) -> None:
    """Options that need others; raises UsageError."""
    if (request.gpu_model or request.gpu_memory) and not request.gpu_count:
        raise UsageError(
            "a GPU's model or memory says nothing without a number of GPUs", hint="--gpus N[:MODEL]"
        )
    if request.pin and (request.cores < 1 or request.cores != int(request.cores)):
        raise UsageError("--pin gives whole cores", hint="ask for --cores 1 or more")
    if request.notice is not None:
        if request.time_limit is None:
            raise UsageError("--notice comes before a time limit", hint="give a --time-limit, too")
        if request.notice.seconds >= request.time_limit:
            raise UsageError("--notice must be shorter than --time-limit")


def _workdir(caller: Caller, policy: Policy, like_here: bool, inside: bool) -> str | None:
    """The caller's folder where it means the same: here, or under the shared folder. Raises UsageError where
    it was typed and means nothing there."""
    folder = caller.workdir
    if folder is None or like_here:
        return folder
    if not policy.shared_dir or not PurePosixPath(folder).is_relative_to(policy.shared_dir):
        if caller.workdir_typed:
            raise UsageError(
                f"--workdir {folder} is not under the shared folder {policy.shared_dir}: no task can see it",
                hint="name an absolute folder as the task sees it",
            )
        return None
    if not inside:
        return folder
    return str(PurePosixPath("/shared") / PurePosixPath(folder).relative_to(policy.shared_dir))
