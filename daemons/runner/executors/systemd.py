"""Tasks in transient systemd services: limits and sandboxes of the system, kept by the same shims.

A unit's main process forks the shim and takes over from it (``shim/unit.py``), so nothing of ours has to be
their parent, and the attempt's folder tells all. Only where both were killed the unit itself is asked how.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.executors.kept import Kept, Place
from daemons.runner.executors.units import Refused, Silent, Unit, Units
from daemons.runner.folders import folder_of, take_claim
from daemons.runner.keepers import Keepers, Line, shim_command
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, Handle, Key, TryLater, Work, folder_name
from daemons.runner.probes.engines import PRIVATE_PIDS_SINCE, Systemd
from daemons.runner.shim.claim import write_never_ran
from daemons.runner.shim.proc import boottime
from daemons.runner.shim.status import read_status, store_status
from daemons.runner.shim.unit import REFUSAL
from hakuriver.errors import CannotFit, Unreachable
from hakuriver.nodewire import AttemptSpec

log = Log("systemd")
OLDEST = 244  # has OOMPolicy, reset of cgroup limits, and everything else that is used without asking
EXIT_OF_GROUPS_SINCE = 250
SHIM_MEMORY = 12 * 2**20  # bytes that main process and shim may hold in a unit's control group
APPEARANCE = 2.0  # seconds in which a unit that was started should show in its folder
SWEEP_INTERVAL = 600.0
_NAME = re.compile(r"hakuriver-[0-9a-z]+-([0-9]+)-([0-9]+)\.service")


def unit_name(attempt: Attempt) -> str:
    """``hakuriver-<cluster>-<task>-<attempt>.service``, with eight characters of the cluster's id."""
    cluster = re.sub(r"[^0-9a-z]", "", attempt.cluster.lower())[:8] or "0"
    return f"hakuriver-{cluster}-{attempt.spec.task}-{attempt.spec.attempt}.service"


def properties(spec: AttemptSpec, systemd: Systemd, *, switches: bool) -> list[str]:
    """What its unit is made with. ``switches``: whether the task becomes another user than this one."""
    found = ["OOMPolicy=continue", "TasksMax=infinity"]
    if systemd.version >= EXIT_OF_GROUPS_SINCE:
        found.append("ExitType=cgroup")  # the shim may outlive the main process
    if systemd.how != "user":
        found.append("OOMScoreAdjust=-900")
    if systemd.how == "sudo":
        found.append(f"User={os.geteuid()}")
        if switches:
            found.append("AmbientCapabilities=CAP_SETUID CAP_SETGID CAP_KILL")
    if spec.cores:
        found.append(f"CPUQuota={max(spec.cores * 100, 0.01):.2f}%")
    if spec.memory:
        found += [f"MemoryMax={spec.memory + SHIM_MEMORY}", "MemorySwapMax=0"]
    if spec.private_network:
        found.append("PrivateNetwork=yes")
    if spec.private_pid:
        found.append("PrivatePIDs=yes")
    if systemd.how == "user" and (spec.private_network or spec.private_pid):
        found.append("PrivateUsers=yes")  # only in a user namespace of its own a user may make others
    return found


class SystemdExecutor(Kept):
    """Runs attempts in units of the manager that this runner may use."""

    def __init__(
        self, place: Place, keepers: Keepers, systemd: Systemd, lease: Lease, threads: Threads
    ) -> None:
        super().__init__(place, keepers, lease, threads)
        self._systemd = systemd
        self._units = Units(systemd)

    def close(self) -> None:
        self._units.close()

    @property
    def unavailable(self) -> str | None:
        systemd, account = self._systemd, self._place.account
        if systemd.how is None:
            return systemd.reason
        if systemd.version < OLDEST:
            return f"systemd {systemd.version} is too old: {OLDEST} is needed"
        if systemd.how == "user" and account.other is not None:
            return f"only root can run tasks as {account.name} ([environment] runner_user)"
        return None

    @property
    def by_quota(self) -> bool:
        return self._systemd.how != "user"  # whose manager seldom has the controller for it

    def check(self, attempt: Attempt) -> None:
        super().check(attempt)
        if attempt.spec.private_pid and not self._systemd.private_pids:
            raise CannotFit(
                f"this node's systemd {self._systemd.version} can't give a task its own process tree:"
                f" that needs {PRIVATE_PIDS_SINCE}",
                hint="leave out --private-pid, or use a container",
                code="no_private_pid",
            )

    def _handle(self, attempt: Attempt) -> Handle:
        return attempt.handle | {"unit": unit_name(attempt)}

    def _complete(self, attempt: Attempt, order: dict[str, Any]) -> None:
        spec = attempt.spec
        order |= {"killable": True, "memory_max": spec.memory and spec.memory + SHIM_MEMORY}
        wanted = {"net": spec.private_network, "pid": spec.private_pid}
        order["apart"] = {
            kind: Path(f"/proc/self/ns/{kind}").stat().st_ino for kind, apart in wanted.items() if apart
        }

    async def clean(self, attempt: Attempt) -> None:
        await super().clean(attempt)
        if self._systemd.how is not None:
            try:
                await self._units.release(unit_name(attempt))
            except Silent as error:
                raise Unreachable(str(error)) from error

    # ---- somebody must keep it

    async def _reach(self, work: Work, claimed: bool) -> Line | None:
        attempt, name = work.attempt, unit_name(work.attempt)
        claimed = claimed or await self._threads.call(self._claimed, attempt)
        try:
            found = await self._units.show(name)
            if found.led:
                return None
            if claimed:
                await self._bury(attempt, found)
            elif found.failed:
                await self._units.release(name)
                raise TryLater(await self._threads.call(self._refusal, attempt, found))
            else:
                await self._start(attempt)
        except Refused as error:
            if not claimed:
                raise TryLater(f"systemd: {error}") from error
            log.warning("unit_unknown", task=attempt.spec.task, error=str(error))
        except Silent as error:
            await self._in_doubt(work, str(error), claimed=claimed)
        return None

    async def _start(self, attempt: Attempt) -> None:
        """Start its unit and wait until it shows; in vain is no error: then there is another look."""
        words = properties(attempt.spec, self._systemd, switches=self._place.account.other is not None)
        argv = shim_command("unit", str(self._place.attempts), attempt.name)
        await self._units.start(unit_name(attempt), self._description(attempt.name), words, argv)
        clock = asyncio.get_running_loop().time
        give_up, pause = clock() + APPEARANCE, 0.005
        while clock() < give_up and await self._keepers.status(attempt.name) is None:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def _description(self, name: str) -> str:
        """Which of the runners of a machine a unit belongs to: the one with this folder."""
        return f"HakuRiver {self._place.attempts}/{name}"

    def _refusal(self, attempt: Attempt, found: Unit) -> str:
        path = folder_of(self._place.attempts, attempt.key) / REFUSAL
        try:
            reason = path.read_text("utf-8")
            path.unlink()
        except OSError:
            return f"its unit didn't start it ({found.result}): journalctl -u {unit_name(attempt)}"
        return reason

    async def _in_doubt(self, work: Work, reason: str, *, claimed: bool) -> None:
        """systemd may have started it or may yet do so: only the claim can say that it never ran."""
        if claimed:
            log.warning("unit_unknown", task=work.attempt.spec.task, error=reason)
        elif work.attempt.kill_wanted:
            await self._threads.call(self._give_up, work.attempt)
        else:
            await work.waiting(reason)

    def _give_up(self, attempt: Attempt) -> None:
        if take_claim(self._place.attempts, attempt.key):
            with self._locked(attempt) as folder:
                write_never_ran(folder)

    async def _bury(self, attempt: Attempt, found: Unit) -> None:
        """Its unit has no main process (any more): store how it ended, unless its shim lives on."""
        try:
            if found.up:
                await self._threads.call(self._look_for_shim, attempt)
                with contextlib.suppress(Refused):
                    await self._units.kill(unit_name(attempt))
            await self._threads.call(self._store_end, attempt, found.result)
        except BlockingIOError:
            return

    def _look_for_shim(self, attempt: Attempt) -> None:
        with self._locked(attempt):
            pass

    def _store_end(self, attempt: Attempt, result: str) -> None:
        with self._locked(attempt) as folder:
            status = read_status(folder)
            if status is None or "pid" not in status:
                write_never_ran(folder)
            elif status["phase"] != "final":
                why = f"its shim and the main process of its unit were killed (unit result: {result})"
                ended = {"ended_at": time.time(), "ended_boot": boottime()} if status["raw"] is None else {}
                store_status(folder, status | ended | {"phase": "final", "unseen": why}, durable=True)

    @contextlib.contextmanager
    def _locked(self, attempt: Attempt) -> Iterator[int]:
        """Its open folder, as its keeper has it; raises BlockingIOError while one lives."""
        folder = self._keepers.lock(attempt.name)
        try:
            yield folder
        finally:
            os.close(folder)

    # ---- what nobody wants any more

    async def sweep(self, lives: Callable[[Key], Awaitable[bool]]) -> None:
        """For ever: end units of this runner's folder whose attempts are over, or were never known."""
        while True:
            if self.unavailable is None:
                try:
                    await self._end_strays(lives)
                except (Refused, Silent) as error:
                    log.warning("sweep_failed", error=str(error))
            await asyncio.sleep(SWEEP_INTERVAL)

    async def _end_strays(self, lives: Callable[[Key], Awaitable[bool]]) -> None:
        for name, described in await self._units.list("hakuriver-*.service"):
            found = _NAME.fullmatch(name)
            if found is None:
                continue
            key = int(found[1]), int(found[2])
            if described != self._description(folder_name(key)) or await lives(key):
                continue
            log.warning("stray_unit_ended", unit=name)
            with contextlib.suppress(Refused):  # it has nothing to kill (any more)
                await self._units.kill(name)
            await self._units.release(name)
