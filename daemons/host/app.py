"""The HTTP application over a host."""

from __future__ import annotations

from starlette.applications import Starlette

from daemons.common import web
from daemons.host.context import Host
from daemons.host.routes import cluster, logs, nodes, queue, tasks, watch
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
    }
    return web.build(HOST_ROUTES, handlers, host.credentials)
