"""Plain processes: no root, no Docker. The fork server starts the shims that keep them."""

from __future__ import annotations

import os
from typing import Any

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.cgroups import Groups
from daemons.runner.executors.kept import Kept, Place
from daemons.runner.forkserver import ForkServer
from daemons.runner.keepers import Line
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, Work
from hakuriver.errors import UsageError

log = Log("process")


class ProcessExecutor(Kept):
    """Runs attempts through the fork server."""

    def __init__(
        self,
        place: Place,
        server: ForkServer,
        groups: Groups,
        lease: Lease,
        threads: Threads,
    ) -> None:
        super().__init__(place, server, lease, threads)
        self._server = server
        self._groups = groups

    @property
    def unavailable(self) -> str | None:
        account = self._place.account
        if account.other is None or os.geteuid() == 0:
            return None
        return f"only root can run processes as {account.name} ([environment] runner_user)"

    def check(self, attempt: Attempt) -> None:
        super().check(attempt)
        if attempt.spec.private_network or attempt.spec.private_pid:
            raise UsageError(
                "a process task shares the node's network and processes",
                hint="--executor systemd, or a container, can have its own",
            )

    async def _reach(self, work: Work, claimed: bool) -> Line:
        return await self._server.ask("adopt" if claimed else "start", work.attempt.name)

    def _complete(self, attempt: Attempt, order: dict[str, Any]) -> None:
        spec = attempt.spec
        try:
            made = self._groups.make(attempt.name, memory=spec.memory, cores=0 if spec.pin else spec.cores)
        except OSError as error:
            log.warning("no_control_groups", task=spec.task, error=error.strerror)
            return
        order["cgroups"] = made.paths
        if made.oom_file is not None:
            order |= {"oom_file": made.oom_file, "watch_memory": 0}

    def _clean(self, attempt: Attempt) -> None:
        super()._clean(attempt)
        if attempt.spec.memory or attempt.spec.cores:
            try:
                self._groups.remove(attempt.name)
            except OSError as error:
                log.warning("control_groups_stay", task=attempt.spec.task, error=error.strerror)
