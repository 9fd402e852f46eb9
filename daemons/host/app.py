"""The HTTP application over a host."""

from __future__ import annotations

from starlette.applications import Starlette

from daemons.common import web
from daemons.host.context import Host
from daemons.host.environments import prefetch
from daemons.host.routes import cluster, environments, exec, logs, nodes, queue, tasks, watch
from hakuriver.paths import HOST_ROUTES


def create_app(host: Host) -> Starlette:
    """The HTTP API over a host."""
    handlers = {
        **cluster.handlers(host),
        **nodes.handlers(host),
        **tasks.handlers(host),
        **queue.handlers(host),
        **logs.handlers(host),
        **watch.handlers(host),
        **environments.handlers(host),
        **prefetch.handlers(host),
    }
    service = host.environments
    sockets = exec.sockets(service.sessions, service.containers, service.engine_looked_for)
    return web.build(HOST_ROUTES, handlers, host.credentials, sockets)
