"""The runner's side of the fences of containers: raising them, keeping them up, reading what they did."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.folders import folder_of
from daemons.runner.forkserver import ForkServer
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, TryLater
from daemons.runner.shim.fence import ORDER, RECORD, has_claim
from daemons.runner.shim.status import read_status

log = Log("fences")
FIRST_DELAY, MAX_DELAY = 0.05, 5.0
VERDICT_PATIENCE = 10.0
CAP_KILL = 5


@dataclass(frozen=True, slots=True)
class Fenced:
    """What a fence did after the lease was over."""

    reason: str
    never_ran: bool  # it has the claim: the task was never started, and never will be
    killed: bool  # it found the container alive
    dead: bool  # it saw it dead


class Fences:
    """One fence for each fenced container. ``engine``: the path of the engine's socket, None without one."""

    def __init__(
        self, server: ForkServer, lease: Lease, attempts: Path, threads: Threads, *, engine: str | None
    ) -> None:
        self._server = server
        self._lease = lease
        self._attempts = attempts
        self._threads = threads
        self._engine = engine

    def impossible(self) -> str | None:
        """Why no container can be fenced here; None when it can. Blocking."""
        if self._engine is None:
            return "its engine is not on this machine"
        if not _may_kill():
            return "its runner is not root"
        return None

    async def require_lease(self) -> None:
        """Raises TryLater unless a fenced container may start now."""
        await self._lease.require()

    async def stand(self, attempt: Attempt, container: str, *, wrapped: bool) -> bool:
        """See to it that a fence lives before a container is started; False when it is fenced already. Raises
        TryLater when it must not start now."""
        await self.require_lease()
        try:
            await self._threads.call(self._write_order, attempt, container, wrapped)
        except OSError as error:
            raise TryLater(f"its fence can't be ordered: {error.strerror or 'timed out'}") from error
        answer = await self._server.order(attempt.name, {"op": "fence"})
        if answer is None:
            with contextlib.closing(await self._server.ask("fence", attempt.name)) as line:
                answer = await line.answer()
        if answer is None or answer.get("container") != container:
            raise TryLater(f"its fence doesn't stand: {(answer or {}).get('refused', 'no answer')}")
        return not answer["fenced"]

    def _write_order(self, attempt: Attempt, container: str, wrapped: bool) -> None:
        folder = folder_of(self._attempts, attempt.key)
        fresh = folder / f"{ORDER}.new"
        order = {"container": container, "wrapped": wrapped, "engine": self._engine}
        fresh.write_text(json.dumps(order), "utf-8")
        fresh.replace(folder / ORDER)

    async def hold(self, attempt: Attempt) -> None:
        """Until the container was seen dead, or until cancelled: a fence that is killed is replaced."""
        delay, fell = FIRST_DELAY, False
        while True:
            since = time.monotonic()
            with contextlib.suppress(TryLater, OSError):
                done = await self.work_of(attempt)
                if done is not None and done.dead:
                    return
                if fell:
                    log.warning("fence_fell", task=attempt.spec.task, attempt=attempt.spec.attempt)
                fell = False
                fell = await self._accompany(attempt)
            delay = FIRST_DELAY if time.monotonic() - since > MAX_DELAY else min(delay * 2, MAX_DELAY)
            await asyncio.sleep(delay)

    async def _accompany(self, attempt: Attempt) -> bool:
        """Stay with the fence, raised when there is none, to its end; False when there was none."""
        line = await self._server.control(attempt.name)
        stood = line is not None
        with contextlib.closing(line or await self._server.ask("fence", attempt.name)) as open_line:
            while (said := await open_line.next()) is not None:
                stood = "refused" not in said
        return stood

    async def lives(self, attempt: Attempt) -> bool:
        """Whether the fence answers, was not needed yet, and may kill what it sees of the container."""
        answer = await self._server.order(attempt.name, {"op": "fence"})
        return answer is not None and answer.get("fenced") is False and answer.get("reaches") is True

    async def work_of(self, attempt: Attempt) -> Fenced | None:
        """What the fence did; None while nothing."""
        return await self._threads.call(self._read, attempt)

    async def verdict(self, attempt: Attempt) -> Fenced | None:
        """The same, once the fence of a dead container knows whether it was it: where the engine killed for
        it, the end may be heard of before its answer. Waits for some seconds at most."""
        give_up = time.monotonic() + VERDICT_PATIENCE
        while (done := await self.work_of(attempt)) is not None and not done.killed and not done.dead:
            if time.monotonic() > give_up:
                break
            await asyncio.sleep(0.05)
        return done

    def _read(self, attempt: Attempt) -> Fenced | None:
        path = folder_of(self._attempts, attempt.key)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            record = read_status(folder, RECORD)
            if record is None or not record["no_lease_for"]:
                return None
            return Fenced(
                reason=f"no lease for {max(1, round(record['no_lease_for']))} s",
                never_ran=has_claim(folder),
                killed=record["killed"],
                dead=record["dead"],
            )
        finally:
            os.close(folder)

    async def down(self, attempt: Attempt) -> None:
        """The attempt is over: its fence ends within a second, and no other can be raised."""
        order = folder_of(self._attempts, attempt.key) / ORDER
        await self._threads.call(order.unlink, missing_ok=True)


def _may_kill() -> bool:
    """Whether this process, and so its fences, may signal the processes of everybody."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> CAP_KILL & 1)
    return False
