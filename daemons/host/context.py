"""The host as a value: its parts, wired together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from daemons.common.log import Log
from daemons.common.serve import Loop
from daemons.host import auth
from daemons.host.backup import announce
from daemons.host.dispatcher import Dispatcher
from daemons.host.environments.service import Environments
from daemons.host.followups import Dependencies
from daemons.host.holds import Holds
from daemons.host.ledger import Ledger
from daemons.host.logs import Logs
from daemons.host.losses import Losses
from daemons.host.nodes import Nodes
from daemons.host.placing import Placing
from daemons.host.recovery import Recovery
from daemons.host.retention import Retention
from daemons.host.rows import load_facts, load_nodes
from daemons.host.scheduling.model import Caps
from daemons.host.setup import Policy
from daemons.host.store import Change, NodeChange, NodeGone, Store, TaskChange
from daemons.host.watch import Hub
from hakuriver.config import Settings
from hakuriver.lifecycle import LIVE
from hakuriver.statedir import Layout
from hakuriver.units import millicores

log = Log("host")


@dataclass(slots=True)
class Host:
    """Everything that routes and loops need. Made by ``open_host``."""

    settings: Settings
    policy: Policy
    store: Store
    credentials: auth.Credentials
    ledger: Ledger
    nodes: Nodes
    placing: Placing
    dispatcher: Dispatcher
    holds: Holds
    dependencies: Dependencies
    losses: Losses
    recovery: Recovery
    hub: Hub
    logs: Logs
    retention: Retention
    environments: Environments
    submitting: Counter[str] = field(default_factory=Counter)
    """Tasks of each owner that are on their way into the store."""

    def loops(self) -> dict[str, Loop]:
        """The loops that must run for as long as the host does."""
        timing = self.settings.timing
        return {
            "store": self.store.run,
            "placing": self.placing.run,
            "dispatcher": self.dispatcher.run,
            "holds": self.holds.run,
            "dependencies": self.dependencies.run,
            "nodes": partial(self.nodes.watch, min(1.0, timing.heartbeat_interval / 2), self.losses.once),
            "retention": self.retention.run,
            "recovery": self.recovery.run,
            **self.environments.loops(),
        }

    async def stop(self) -> None:
        """End the streams, so that the server can stop."""
        self.hub.close()
        await self.environments.hang_up()

    async def close(self) -> None:
        """After the server: write what is waiting, close everything."""
        self.hub.close()
        await self.dispatcher.close()
        await self.store.close()
        self.logs.close()
        self.environments.close()


async def open_host(settings: Settings, layout: Layout, tokens: auth.Tokens, *, embedded: bool) -> Host:
    """A host over a migrated database, its memory read from there; to be closed with ``close``."""
    shared = Path(settings.paths.shared_dir).expanduser() if settings.paths.shared_dir else layout.shared
    timing = settings.timing
    ledger = Ledger()

    def committed(changes: Sequence[Change]) -> None:
        _committed(host, changes)

    def shown_anew() -> None:
        hub.touch_environments()

    store = Store(layout.database, committed)
    store.open()
    timeout = timing.heartbeat_interval * timing.heartbeat_timeout_factor
    known = Nodes(store, ledger, timeout, timing.lease)
    dispatcher = Dispatcher(store, ledger, known, tokens.host)
    environments = Environments(store, settings.docker, shared, shown_anew, embedded=embedded)
    hub = Hub(store, known.view, known.names, environments.views)
    placing = Placing(store, ledger, known, _caps(settings))
    logs = Logs(store, dispatcher, hub, shared)
    host = Host(
        settings=settings,
        policy=Policy(
            embedded, settings.docker.default_container_name, str(shared), settings.docker.task_user
        ),
        store=store,
        credentials=await auth.load(store, tokens),
        ledger=ledger,
        nodes=known,
        placing=placing,
        dispatcher=dispatcher,
        holds=Holds(store),
        dependencies=Dependencies(store, ledger.queue),
        losses=Losses(store, ledger, known, dispatcher, patience=timeout / 3),
        recovery=Recovery(store, ledger, known, placing, dispatcher, patience=timeout),
        hub=hub,
        logs=logs,
        retention=Retention(store, logs, settings.retention),
        environments=environments,
    )
    await store.write(announce)
    await host.recovery.load()
    await environments.reload()
    for node in await store.read(load_nodes):
        known.apply(node)
    for row in await store.read(lambda connection: load_facts(connection, [str(state) for state in LIVE])):
        ledger.apply(row)
        if not host.recovery.keep_back(row):
            dispatcher.consider(row)
        host.holds.consider(row)
    await host.dependencies.load()
    for name in known.names():
        host.hub.touch(name)
    identity = store.identity
    log.info(
        "opened", cluster=identity.cluster, epoch=identity.epoch, queued=len(ledger.queue), held=ledger.held
    )
    return host


def _caps(settings: Settings) -> Caps:
    limits = settings.limits
    return Caps(limits.owner_tasks, millicores(limits.owner_cores), limits.owner_gpus)


def _committed(host: Host, changes: Sequence[Change]) -> None:
    """Committed changes, in their order: memory first, then everybody who watches."""
    for change in changes:
        if isinstance(change, NodeChange):
            host.nodes.apply(change.row)
            host.placing.wake()
        elif isinstance(change, NodeGone):
            host.nodes.forget(change.name)
            host.placing.wake()
        elif isinstance(change, TaskChange):
            effect = host.ledger.apply(change.row)
            for name in effect.nodes:
                host.hub.touch(name)
            kept_back = host.recovery.keep_back(change.row)
            if effect.came_back and not kept_back:
                host.placing.rest(change.row.id, change.row.attempt)
            if effect.placeable:
                host.placing.wake()
            if not kept_back:
                host.dispatcher.consider(change.row)
            host.holds.consider(change.row)
            host.dependencies.consider(change.row)
    host.hub.publish(changes)
