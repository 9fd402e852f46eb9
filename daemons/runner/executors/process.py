"""Plain processes: no root, no Docker. The shim keeps them, this starts and follows shims."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemons.common.log import Log
from daemons.runner.cgroups import MemoryGroups
from daemons.runner.environment import Account, process_variables
from daemons.runner.folders import prepare
from daemons.runner.forkserver import ForkServer, Line, Reply
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, End, TryLater, Work
from daemons.runner.shim.status import Status
from daemons.runner.threads import Threads
from hakuriver.errors import Conflict, Unreachable, UsageError

log = Log("process")
STDIN_PATIENCE = 5.0  # seconds in which a task that doesn't read may make room; the host waits longer
STDIN_PIECE = 128 * 1024  # bytes of which each shim takes a line
STDIN_PAUSE, STDIN_LONGEST_PAUSE = 0.001, 0.05  # seconds between looks at a pipe that was full


@dataclass(frozen=True, slots=True)
class Place:
    """Where process tasks run: facts about this node."""

    node: str
    attempts: Path
    shared: Path
    temp: Path
    account: Account
    boot_id: str


class ProcessExecutor:
    """Runs attempts through the fork server."""

    def __init__(
        self,
        place: Place,
        server: ForkServer,
        groups: MemoryGroups | None,
        lease: Lease,
        threads: Threads,
    ) -> None:
        self._place = place
        self._server = server
        self._groups = groups
        self._lease = lease
        self._threads = threads

    @property
    def unavailable(self) -> str | None:
        return None

    def check(self, attempt: Attempt) -> None:
        if attempt.spec.mounts:
            raise UsageError("a process task sees the node's own files: it can't have mounts")
        if attempt.spec.privileged:
            raise UsageError("a process task can't be privileged: that is for containers")

    async def run(self, work: Work) -> End:
        attempt = work.attempt
        claimed = await self._threads.call(self._claimed, attempt)
        rebooted = bool(attempt.boot_id) and attempt.boot_id != self._place.boot_id
        if claimed and rebooted:
            return await self._after_reboot(attempt)
        if not claimed:
            if attempt.spec.fenced:
                await self._lease.require()
            await work.save(attempt.handle)
            try:
                await self._threads.call(self._prepare, attempt)
            except OSError as error:
                raise TryLater(f"its folder can't be made: {error.strerror}") from error
        running = False
        async for status in self._server.statuses(attempt.name, claimed=claimed):
            if status["phase"] == "final":
                return end_of(status)
            if not running and status["phase"] == "started":
                running = True
                await work.started(_time(status["started_at"]))
        raise RuntimeError("a shim's statuses ended without a final one")

    async def _after_reboot(self, attempt: Attempt) -> End:
        """What an earlier boot left: its stored end, or nothing that anybody could know."""
        status = await self._server.status(attempt.name)
        if status is not None and status["phase"] == "final":
            return end_of(status)
        return End(lost="node_rebooted: the machine was restarted while it ran")

    def _claimed(self, attempt: Attempt) -> bool:
        return (self._place.attempts / attempt.name / "io" / "claim").exists()

    def _prepare(self, attempt: Attempt) -> None:
        folder = prepare(self._place.attempts, attempt.key)
        order = self._order(attempt)
        if attempt.spec.memory and self._groups is not None:
            try:
                group = self._groups.make(attempt.name, attempt.spec.memory)
                order |= {"cgroups": [str(group)], "oom_file": str(self._groups.oom_file(group))}
                order["watch_memory"] = 0
            except OSError as error:
                log.warning("no_memory_group", task=attempt.spec.task, error=error.strerror)
        fresh = folder / "order.json.new"
        fresh.write_text(json.dumps(order), "utf-8")
        fresh.replace(folder / "order.json")

    def _order(self, attempt: Attempt) -> dict[str, Any]:
        spec, place = attempt.spec, self._place
        variables = process_variables(
            spec, place.account, node=place.node, shared=str(place.shared), temp=str(place.temp)
        )
        home = place.account.home if Path(place.account.home).is_dir() else "/"
        return {
            "argv": spec.command,
            "env": variables,
            "cwd": spec.workdir or home,
            "cpus": attempt.handle.get("cpus", []),
            "stdin": spec.stdin,
            "watch_memory": spec.memory,
            "fenced": spec.fenced,
        }

    async def kill(self, attempt: Attempt, grace: float) -> None:
        if await self._server.order(attempt.name, {"op": "kill", "grace": grace}) is None:
            raise Unreachable("nobody keeps it at this moment")

    async def fence_lives(self, attempt: Attempt) -> bool:
        answer = await self._server.order(attempt.name, {"op": "fence"})
        return answer is not None and answer.get("fence") is True

    async def pause(self, attempt: Attempt) -> None:
        await self._must(attempt, {"op": "pause"})

    async def resume(self, attempt: Attempt) -> None:
        await self._must(attempt, {"op": "resume"})

    async def signal(self, attempt: Attempt, number: int) -> None:
        await self._must(attempt, {"op": "signal", "signal": number})

    async def _must(self, attempt: Attempt, message: Reply) -> Reply:
        answer = await self._server.order(attempt.name, message)
        if answer is None or answer.get("error") == "ended":
            raise _not_running(attempt)
        return answer

    async def stdin(self, attempt: Attempt, offset: int, data: bytes, *, eof: bool) -> int:
        if not attempt.spec.stdin:
            raise Conflict("the task was not given a standard input", hint="submit it with --stdin")
        line = await self._server.control(attempt.name)
        if line is None:
            raise _not_running(attempt)
        with contextlib.closing(line):
            return await _feed(line, attempt, offset, data, eof=eof)

    async def clean(self, attempt: Attempt) -> None:
        await self._threads.call(self._clean, attempt)

    def _clean(self, attempt: Attempt) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._place.attempts / attempt.name / "control")  # noqa: PTH108
        if attempt.spec.memory and self._groups is not None:
            try:
                self._groups.remove(attempt.name)
            except OSError as error:
                log.warning("memory_group_stays", task=attempt.spec.task, error=error.strerror)


async def _feed(line: Line, attempt: Attempt, offset: int, data: bytes, *, eof: bool) -> int:
    """Hand bytes to a keeper piece by piece, for as long as the task makes room; the next wanted offset."""
    clock = asyncio.get_running_loop().time
    give_up, pause, reached = clock() + STDIN_PATIENCE, STDIN_PAUSE, offset
    while True:
        rest = memoryview(data)[reached - offset :]
        piece = base64.b64encode(rest[:STDIN_PIECE]).decode()
        last = eof and len(rest) <= STDIN_PIECE
        line.send({"op": "stdin", "offset": reached, "data": piece, "eof": last})
        before, wanted = reached, reached + min(len(rest), STDIN_PIECE)
        reached = _reached(await line.answer(), attempt, offset)
        if reached >= offset + len(data) or clock() > give_up:
            return reached
        if reached < wanted:
            pause = STDIN_PAUSE if reached > before else min(pause * 2, STDIN_LONGEST_PAUSE)
            await asyncio.sleep(pause)


def _reached(answer: Reply | None, attempt: Attempt, offset: int) -> int:
    """How far a keeper has the input; raises Conflict when it can't have more."""
    error = "ended" if answer is None else answer.get("error")
    if answer is None or error == "ended":
        raise _not_running(attempt)
    if error == "closed":
        raise Conflict("the task doesn't read its standard input any more", code="stdin_closed")
    reached = int(answer["offset"])
    if error == "gap":
        raise Conflict(f"bytes are missing before {offset}: continue at {reached}", code="stdin_gap")
    return reached


def _not_running(attempt: Attempt) -> Conflict:
    return Conflict(f"attempt {attempt.name} doesn't run", code="not_running")


def end_of(status: Status) -> End:
    """The end that a final status tells of."""
    if status.get("never_ran"):
        return End(never_ran="its shim was killed before it could start it")
    error, raw = status["error"], status["raw"]
    times = {
        "started_at": _time(status["started_at"]),
        "ended_at": _time(status["ended_at"]),
        "ended_boot": status["ended_boot"],
        "boot_id": status["boot"],
    }
    if status.get("fenced") and (raw is None or (os.WIFSIGNALED(raw) and os.WTERMSIG(raw) == signal.SIGKILL)):
        return End(lost=f"fenced: no lease for {max(1, round(status['no_lease_for']))} s", **times)
    if raw is None:
        return End(lost="its shim and the fork server were killed: nobody saw how it ended", **times)
    if error is not None:
        return End(exit_code=error["code"], error=error["text"], **times)
    number = os.WTERMSIG(raw) if os.WIFSIGNALED(raw) else None
    code = None if number is not None else os.waitstatus_to_exitcode(raw)
    died_of_it = number == 9 or code == 137
    return End(
        exit_code=code,
        signal=number,
        over_memory=bool(status["oom"]) or (status["oom_events"] > 0 and died_of_it),
        oom_events=status["oom_events"],
        **times,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
