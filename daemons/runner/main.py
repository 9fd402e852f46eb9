"""The runner daemon: puts the parts together, runs them, and stops without touching a task."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from daemons.common import log as daemon_log
from daemons.common import serve
from daemons.common.engine import socket_path
from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner import cgroups, tools
from daemons.runner.agent import Agent
from daemons.runner.app import Api, create_app
from daemons.runner.copier import LogKeeper
from daemons.runner.environment import account
from daemons.runner.executors.container import Rules
from daemons.runner.executors.docker import DockerExecutor
from daemons.runner.executors.engine import Engine
from daemons.runner.executors.fences import Fences
from daemons.runner.executors.kept import Place
from daemons.runner.executors.process import ProcessExecutor
from daemons.runner.executors.systemd import SystemdExecutor
from daemons.runner.forkserver import ForkServer
from daemons.runner.images.cleaning import Cleaner
from daemons.runner.images.images import Images
from daemons.runner.journal import Journal
from daemons.runner.lease import Lease
from daemons.runner.link import Identity, Link
from daemons.runner.model import Executor
from daemons.runner.offer import Offer, offer_of
from daemons.runner.probes import engines, numa, system
from daemons.runner.probes.gpu import Gpus
from daemons.runner.probes.machine import Machine
from daemons.runner.retention import Retention
from hakuriver import statedir
from hakuriver.aio import AsyncClient
from hakuriver.api import Client
from hakuriver.config import Settings
from hakuriver.errors import ConfigError, Conflict
from hakuriver.fields import Executor as ExecutorName

log = Log("runner")


@dataclass(frozen=True, slots=True)
class Start:
    """What is settled before the event loop runs."""

    settings: Settings
    layout: statedir.Layout
    host_url: str
    host_token: str
    node_token: str
    shared: Path
    temp: Path
    name: str
    offer: Offer


def run(
    settings: Settings, layout: statedir.Layout, *, host_url: str, embedded: bool, insecure_bind: bool
) -> int:
    """Run until SIGTERM; raises HakuRiverError when it can't start."""
    daemon_log.configure()
    statedir.check_local(layout.root)
    for folder in (layout.root, layout.runner, layout.attempts):
        statedir.make_private(folder)
    with _only_one(layout.runner / "runner.lock"):
        start = _settle(settings, layout, host_url, embedded=embedded)
        network = settings.network
        listening = serve.listen(
            network.runner_bind_ip, network.runner_port, insecure_bind=insecure_bind, flag="hakuriver runner"
        )
        with listening:
            asyncio.run(_main(start, listening))
    return 0


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of this state folder; raises Conflict when another runner does."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 100, 0).decode("utf-8", "replace").strip()
        os.close(file)
        raise Conflict(
            f"a runner uses {path.parent} already ({holder})", hint="give this one its own --state-dir"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"pid {os.getpid()} on {os.uname().nodename}, boot {system.boot_id()}\n".encode(), 0)
    try:
        yield
    finally:
        os.close(file)


def _settle(settings: Settings, layout: statedir.Layout, host_url: str, *, embedded: bool) -> Start:
    folder = Path(settings.paths.credentials_dir or layout.credentials).expanduser()
    token = statedir.ensure_token if embedded else statedir.read_token
    shared = Path(settings.paths.shared_dir or layout.shared).expanduser()
    temp = Path(settings.paths.local_temp_dir or layout.temp).expanduser()
    try:
        temp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"local_temp_dir {temp} can't be made: {error.strerror}") from error
    return Start(
        settings=settings,
        layout=layout,
        host_url=host_url,
        host_token=token(folder / "host.token"),
        node_token=token(folder / "node.token"),
        shared=shared,
        temp=temp,
        name=settings.node.name or re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename).strip("-._")[:63],
        offer=offer_of(settings.node, cores=system.cores(), memory=system.memory()),
    )


async def _main(start: Start, listening: socket.socket) -> None:
    layout = start.layout
    async with AsyncExitStack() as stack:
        journal = Journal(layout.journal)
        stack.callback(journal.close)
        await journal.call(journal.open)
        files, probes = Threads("files", 4), Threads("probes", 1)
        for pool in (files, probes):
            stack.callback(pool.close)
        boot_id = await probes.call(system.boot_id)
        topology = await probes.call(numa.nodes)
        for difference in await probes.call(numa.contradictions, topology):
            log.warning("numactl_contradicts", difference=difference)
        server = ForkServer(layout.runner, files)
        stack.callback(server.close)
        user = await probes.call(account, start.settings.environment.runner_user)
        hakurun = await files.call(tools.install, layout.runner / "bin")
        place = Place(
            start.name,
            layout.attempts,
            start.shared,
            start.temp,
            user,
            boot_id,
            topology=tuple(topology),
            has_gpus=lambda: bool(gpus.facts),
            tools=hakurun.parent,
            kill_grace=start.settings.timing.kill_grace,
        )
        groups = await probes.call(cgroups.find, journal.runner)
        stack.callback(groups.close)
        lease = Lease(layout.runner, boot_id, files)
        facts_changed = asyncio.Event()
        engine = Engine(journal.runner, facts_changed)
        stack.callback(engine.close)
        images = Images(
            engine,
            Client(start.host_url, start.node_token),
            shared=start.shared / Path(start.settings.docker.container_dir).expanduser(),
            folder=layout.runner / "images",
            node=start.name,
        )
        stack.callback(images.close)
        await images.open()
        fences = Fences(server, lease, layout.attempts, files, engine=socket_path())
        systemd = await probes.call(engines.systemd)
        units = SystemdExecutor(place, server, systemd, lease, files)
        stack.callback(units.close)
        executors: dict[ExecutorName, Executor] = {
            "process": ProcessExecutor(place, server, groups, lease, files),
            "systemd": units,
            "docker": DockerExecutor(
                engine, images, _rules(start, place, journal.runner, hakurun), fences, files, boot_id=boot_id
            ),
        }
        await engine.look()
        agent = Agent(
            journal,
            executors,
            boot_id=boot_id,
            cpus=os.sched_getaffinity(0),
            numa={each.id: each.cpus for each in topology},
            kill_grace=start.settings.timing.kill_grace,
            lease=lease,
            threads=files,
        )
        client = await stack.enter_async_context(AsyncClient(start.host_url, start.node_token))
        address = await probes.call(_address, start, listening)

        gpus = Gpus(agent.living, layout.attempts, layout.runner / "gpus.json", boot_id)
        stack.callback(gpus.close)
        machine = Machine(
            boot_id=boot_id,
            disk=layout.root,
            topology=topology,
            executors=executors,
            engines=lambda: {"docker": str(engine.about or ""), "systemd": str(systemd)},
            gpus=gpus,
            threads=probes,
            changed=facts_changed,
            offer=start.offer,
        )
        link = Link(
            client,
            Identity(start.name, address, boot_id),
            journal,
            facts=machine.facts,
            usage=machine.usage,
            fences=agent.fences,
            acknowledged=agent.acknowledged,
            reported=agent.records.reported,
            facts_changed=facts_changed,
        )
        api = Api(agent, images, layout.attempts, files, name=start.name, runner=journal.runner)
        log.info(
            "listening",
            address=address,
            node=start.name,
            memory_limits="cgroup" if groups.memory else "watched",
            cpu_limits="cgroup" if groups.cpu else "affinity",
        )
        cap = start.settings.limits.log_cap
        keeper = LogKeeper(agent, journal, files, attempts=layout.attempts, shared=start.shared, cap=cap)
        stack.callback(keeper.close)
        kept = start.settings.retention
        retention = Retention(
            journal,
            layout.attempts,
            files,
            boot_id=boot_id,
            days=kept.attempt_days,
            count=kept.attempt_count,
        )
        loops: dict[str, serve.Loop] = {
            "agent": agent.run,
            "heartbeats": link.heartbeats,
            "reports": link.reports,
            "engine": engine.watch,
            "images": images.flights.run,
            "old images": Cleaner(images, agent.living, files, keep=start.settings.docker.keep_versions).run,
            "units": partial(units.sweep, agent.lives),
            "log caps": keeper.caps,
            "log copies": keeper.copies,
            "retention": retention.run,
        }
        await serve.serve(create_app(api, start.host_token), listening, loops, on_stop=link.goodbye)


def _rules(start: Start, place: Place, runner: str, hakurun: Path) -> Rules:
    settings = start.settings
    return Rules(
        node=start.name,
        runner=runner,
        attempts=start.layout.attempts,
        shared=start.shared,
        temp=start.temp,
        mount_roots=settings.policy.mount_roots,
        allow_privileged=settings.policy.allow_privileged,
        privileged=settings.docker.tasks_privileged,
        additional_mounts=settings.docker.additional_mounts,
        cpus=float(os.cpu_count() or 1),
        numa=place.topology,
        has_gpus=place.has_gpus,
        hakurun=hakurun,
    )


def _address(start: Start, listening: socket.socket) -> str:
    """Where the host finds this runner: as set, else our end of the route to the host. Blocking."""
    port = listening.getsockname()[1]
    name = start.settings.network.runner_address
    if re.fullmatch(r"([^:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", name):
        return f"http://{name}"  # with a port of its own: behind a forward
    if not name:
        bound = start.settings.network.runner_bind_ip
        name = bound if bound not in ("0.0.0.0", "::", "") else _route(start.host_url)  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _route(host_url: str) -> str:
    parts = urlsplit(host_url)
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"there is no route to the host {host_url}: {error.strerror}",
            hint="set [network] runner_address",
        ) from error
