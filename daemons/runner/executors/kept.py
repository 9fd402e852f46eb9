"""What all tasks have in common that a shim keeps, whoever starts it: orders, statuses, signals, input."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from daemons.common.threads import Threads
from daemons.runner import binding
from daemons.runner.environment import Account, process_variables
from daemons.runner.folders import prepare
from daemons.runner.keepers import Keepers, Line, Reply
from daemons.runner.lease import Lease
from daemons.runner.model import Attempt, End, Handle, TryLater, Work, limit_order
from daemons.runner.shim.status import Status
from hakuriver.errors import Conflict, Unreachable, UsageError
from hakuriver.nodewire import NumaFacts

CLOCK_SET = 1.0  # seconds by which the time of day must have jumped to be corrected for
UNSEEN = "its shim and the fork server were killed"
STDIN_PATIENCE = 5.0  # seconds in which a task that doesn't read may make room; the host waits longer
STDIN_PIECE = 128 * 1024  # bytes of which each shim takes a line
STDIN_PAUSE, STDIN_LONGEST_PAUSE = 0.001, 0.05  # seconds between looks at a pipe that was full


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks run that see the node's own files: facts about this node."""

    node: str
    attempts: Path
    shared: Path
    temp: Path
    account: Account
    boot_id: str
    topology: tuple[NumaFacts, ...]
    has_gpus: Callable[[], bool]
    tools: Path
    kill_grace: float


class Kept(ABC):
    """Runs attempts that shims keep."""

    def __init__(self, place: Place, keepers: Keepers, lease: Lease, threads: Threads) -> None:
        self._place = place
        self._keepers = keepers
        self._lease = lease
        self._threads = threads

    @property
    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this node can't run anything this way now; None when it can."""

    @property
    def away(self) -> bool:
        return False

    @abstractmethod
    async def _reach(self, work: Work, claimed: bool) -> Line | None:
        """See to it that somebody keeps the attempt, as ``Keepers.follow`` wants it."""

    @abstractmethod
    def _complete(self, attempt: Attempt, order: dict[str, Any]) -> None:
        """Add to a shim's order what is special here (blocking); raises OSError."""

    def _handle(self, attempt: Attempt) -> Handle:
        return attempt.handle

    def check(self, attempt: Attempt) -> None:
        if attempt.spec.mounts:
            raise UsageError("a task without a container sees the node's own files: it can't have mounts")
        if attempt.spec.privileged:
            raise UsageError("a task without a container can't be privileged")
        if attempt.spec.shm_size is not None:
            raise UsageError("a task without a container uses the node's own /dev/shm: it has no size to set")
        binding.check(attempt.spec, self._place.topology, self._place.node)

    async def run(self, work: Work) -> End:
        attempt = work.attempt
        claimed = await self._threads.call(self._claimed, attempt)
        rebooted = bool(attempt.boot_id) and attempt.boot_id != self._place.boot_id
        if claimed and rebooted:
            return await self._after_reboot(attempt)
        if not claimed:
            if attempt.spec.fenced:
                await self._lease.require()
            await work.save(self._handle(attempt))
            try:
                await self._threads.call(self._prepare, attempt)
            except OSError as error:
                raise TryLater(f"its folder can't be made: {error.strerror}") from error
        running = False
        async for status in self._keepers.follow(attempt.name, partial(self._reach, work), claimed=claimed):
            if status["phase"] == "final":
                return end_of(status)
            if not running and status["phase"] == "started":
                running = True
                await work.started(_time(status["started_at"]))
        raise RuntimeError("a shim's statuses ended without a final one")

    async def _after_reboot(self, attempt: Attempt) -> End:
        """What an earlier boot left: its stored end, or nothing that anybody could know."""
        status = await self._keepers.status(attempt.name)
        if status is not None and status["phase"] == "final":
            return end_of(status)
        return End(lost="node_rebooted: the machine was restarted while it ran")

    def _claimed(self, attempt: Attempt) -> bool:
        return (self._place.attempts / attempt.name / "io" / "claim").exists()

    def _prepare(self, attempt: Attempt) -> None:
        folder = prepare(self._place.attempts, attempt.key)
        order = self._order(attempt)
        self._complete(attempt, order)
        fresh = folder / "order.json.new"
        fresh.write_text(json.dumps(order), "utf-8")
        fresh.replace(folder / "order.json")

    def _order(self, attempt: Attempt) -> dict[str, Any]:
        spec, place = attempt.spec, self._place
        variables = process_variables(
            spec,
            place.account,
            node=place.node,
            shared=str(place.shared),
            temp=str(place.temp),
            tools=str(place.tools),
            gpus=place.has_gpus(),
        )
        home = place.account.home if Path(place.account.home).is_dir() else "/"
        return {
            "argv": spec.command,
            "env": variables,
            "cwd": spec.workdir or home,
            "user": place.account.other,
            "cpus": attempt.cpus,
            "mems": binding.memory_nodes(spec, place.topology),
            "ulimits": binding.ulimit_numbers(spec),
            "limit": limit_order(spec, place.kill_grace),
            "stdin": spec.stdin,
            "watch_memory": spec.memory,
            "fenced": spec.fenced,
        }

    async def kill(self, attempt: Attempt, grace: float) -> None:
        if await self._keepers.order(attempt.name, {"op": "kill", "grace": grace}) is None:
            raise Unreachable("nobody keeps it at this moment")

    async def fence_lives(self, attempt: Attempt) -> bool:
        answer = await self._keepers.order(attempt.name, {"op": "fence"})
        return answer is not None and answer.get("fence") is True

    @property
    def keeps_time(self) -> bool:
        return True

    @property
    def by_quota(self) -> bool:
        return False

    async def pause(self, attempt: Attempt) -> bool:
        await self._must(attempt, {"op": "pause"})
        return True

    async def resume(self, attempt: Attempt) -> bool:
        await self._must(attempt, {"op": "resume"})
        return True

    async def move(self, attempt: Attempt, before: list[int], after: list[int]) -> None:
        answer = await self._must(attempt, {"op": "move", "before": before, "after": after})
        if "error" in answer:
            raise Conflict(f"attempt {attempt.name} stays on its CPUs: {answer['error']}")

    async def signal(self, attempt: Attempt, number: int) -> None:
        await self._must(attempt, {"op": "signal", "signal": number})

    async def _must(self, attempt: Attempt, message: Reply) -> Reply:
        answer = await self._keepers.order(attempt.name, message)
        if answer is None or answer.get("error") == "ended":
            raise _not_running(attempt)
        return answer

    async def stdin(self, attempt: Attempt, offset: int, data: bytes, *, eof: bool) -> int:
        if not attempt.spec.stdin:
            raise Conflict("the task was not given a standard input", hint="submit it with --stdin")
        line = await self._keepers.control(attempt.name)
        if line is None:
            raise _not_running(attempt)
        with contextlib.closing(line):
            return await _feed(line, attempt, offset, data, eof=eof)

    async def clean(self, attempt: Attempt) -> None:
        await self._threads.call(self._clean, attempt)

    def _clean(self, attempt: Attempt) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._place.attempts / attempt.name / "control")  # noqa: PTH108


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
        "started_at": _time(_started_at(status)),
        "ended_at": _time(status["ended_at"]),
        "ended_boot": status["ended_boot"],
        "boot_id": status["boot"],
        "over_limit": (status.get("limit") or {}).get("over"),
    }
    if status.get("fenced") and (raw is None or (os.WIFSIGNALED(raw) and os.WTERMSIG(raw) == signal.SIGKILL)):
        return End(lost=f"fenced: no lease for {max(1, round(status['no_lease_for']))} s", **times)
    if raw is None and error is None:
        return End(lost=f"{status.get('unseen') or UNSEEN}: nobody saw how it ended", **times)
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


def _started_at(status: Status) -> float:
    """When it started, by the time of day at its end: between the two somebody may have set it."""
    started, ended = float(status["started_at"]), float(status["ended_at"])
    lasted = float(status["ended_boot"]) - float(status["started_boot"])
    return started if abs(ended - started - lasted) < CLOCK_SET else ended - lasted


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
