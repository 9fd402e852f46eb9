"""Containers. ``start`` is sent once; whether it happened is known from the claim, never guessed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from docker.errors import APIError, ImageNotFound
from docker.errors import NotFound as ContainerNotFound

from daemons.common.engine import EngineAway
from daemons.common.log import Log
from daemons.common.threads import Threads
from daemons.runner.executors import container
from daemons.runner.executors.container import NO_CLAIM, Rules, name_of
from daemons.runner.executors.engine import Engine
from daemons.runner.executors.enginelogs import LogFetcher
from daemons.runner.executors.fences import Fences
from daemons.runner.executors.kernel import killed_for_memory
from daemons.runner.folders import given_up, prepare, take_claim
from daemons.runner.images.images import Images
from daemons.runner.model import Attempt, End, TryLater, Work
from hakuriver.errors import CannotFit, Conflict, Unreachable

log = Log("docker")
LOOK_AGAIN = 30.0  # the engine's events and its periodic inspection wake us long before
IN_DOUBT = 10.0  # seconds in which a start that may be on its way is waited for
SIGKILLED = 137
NOT_BY_ITSELF = (SIGKILLED, 255)  # exit codes of containers that were killed, and whose end no engine saw


class DockerExecutor:
    """Runs attempts in containers of one engine."""

    def __init__(
        self, engine: Engine, images: Images, rules: Rules, fences: Fences, threads: Threads, *, boot_id: str
    ) -> None:
        self._engine = engine
        self._images = images
        self._rules = rules
        self._fences = fences
        self._threads = threads
        self._boot_id = boot_id
        self._init = True  # docker-init as the first process, until the engine says that it has none
        self._shells: dict[str, bool] = {}  # image id → whether it has /bin/sh

    @property
    def unavailable(self) -> str | None:
        return self._engine.unavailable

    @property
    def away(self) -> bool:
        return self._engine.away

    def check(self, attempt: Attempt) -> None:
        container.check(attempt.spec, self._rules)
        missing = self._fences.impossible() if attempt.spec.fenced else None
        if missing is not None:
            raise CannotFit(
                f"node {self._rules.node} can't fence containers: {missing}",
                hint="use --on-node-loss keep, or a process task",
                code="no_fence",
            )

    async def run(self, work: Work) -> End:
        if not work.attempt.handle.get("start_sent"):
            try:
                refused = await self._start(work)
            except EngineAway as error:
                if not work.attempt.handle.get("start_sent"):
                    raise TryLater(str(error)) from error
            else:
                if refused is not None:
                    return refused
        fetcher = None if work.attempt.handle["wrapped"] else self._fetcher(work.attempt)
        holding = asyncio.create_task(self._hold_fence(work.attempt))
        try:
            return await self._follow(work, fetcher)
        finally:
            holding.cancel()
            self._engine.forget(work.attempt.handle["container"])

    async def _hold_fence(self, attempt: Attempt) -> None:
        """Keep the fence up while the attempt lives; another boot ended it without any."""
        if attempt.spec.fenced and attempt.boot_id == self._boot_id:
            await self._fences.hold(attempt)

    def _fetcher(self, attempt: Attempt) -> LogFetcher:
        folder = self._rules.attempts / attempt.name / "io"
        return LogFetcher(self._engine, attempt.handle["container"], folder, self._threads)

    # ---- starting

    async def _start(self, work: Work) -> End | None:
        """Create and start; an End when it can't be started."""
        attempt = work.attempt
        if attempt.spec.fenced:
            await self._fences.require_lease()
        image = await self._images.ready(work)
        try:
            await self._threads.call(self._prepare, attempt)
        except OSError as error:
            raise TryLater(f"its folders can't be made: {error.strerror}") from error
        try:
            found, wrapped = await self._create(attempt, image)
        except ImageNotFound as error:
            raise TryLater("its image was just removed from the engine") from error
        except APIError as error:
            return End(error=f"the engine refuses the container: {error.explanation}", ended_at=_now())
        if attempt.spec.fenced and not await self._fences.stand(attempt, found, wrapped=wrapped):
            return await self._never_ran(attempt, "the lease of this node was over before it started")
        self._engine.ending(found)
        placed = {
            "container": found,
            "wrapped": wrapped,
            "start_sent": True,
            "image": _digest(attempt, image),
        }
        await work.save(attempt.handle | placed)
        if attempt.kill_wanted:
            return await self._never_ran(attempt, "killed")
        try:
            await self._engine.call(lambda api: api.start(found))
        except APIError as error:
            message = str(error.explanation or error)
            if self._init and "docker-init" in message:
                await self._without_init(work, found)
            return await self._not_started(attempt, message)
        return None

    def _prepare(self, attempt: Attempt) -> None:
        prepare(self._rules.attempts, attempt.key)
        for folder in (self._rules.shared, self._rules.temp):
            folder.mkdir(parents=True, exist_ok=True)

    async def _create(self, attempt: Attempt, image: dict[str, Any]) -> tuple[str, bool]:
        """A container that was not started, and whether its entry is our wrapper."""
        wrapped = self._shells.get(image["Id"], True)
        found = await self._make(attempt, image, wrapped=wrapped)
        if image["Id"] not in self._shells:
            wrapped = self._shells[image["Id"]] = await self._has_shell(found)
            if not wrapped:
                log.warning("image_without_shell", image=attempt.spec.image, task=attempt.spec.task)
                await self._remove(found)
                found = await self._make(attempt, image, wrapped=False)
        return found, wrapped

    async def _make(self, attempt: Attempt, image: dict[str, Any], *, wrapped: bool) -> str:
        """Create it; one of an earlier try, which was never started, makes room."""
        init = self._init
        for _ in range(2):
            try:
                return await self._engine.call(
                    lambda api: str(
                        api.create_container(
                            **container.request(api, attempt, image, self._rules, wrapped=wrapped, init=init)
                        )["Id"]
                    )
                )
            except APIError as error:
                if error.status_code != 409:
                    raise
                await self._remove(name_of(attempt))
        raise Conflict(f"another container has the name {name_of(attempt)}")

    async def _has_shell(self, found: str) -> bool:
        response = await self._engine.call(
            lambda api: api.head(
                f"{api.base_url}/v{api.api_version}/containers/{found}/archive",
                params={"path": "/bin/sh"},
                timeout=30,
            )
        )
        if response.status_code not in (200, 404):
            raise EngineAway(f"the engine can't look into the image: HTTP {response.status_code}")
        return bool(response.status_code == 200)

    async def _without_init(self, work: Work, found: str) -> None:
        """Forget a container that can't start because docker-init is missing. That it can be removed without
        force proves that it doesn't run; raises TryLater."""
        await self._remove(found)
        self._init = False
        log.warning("no_docker_init", consequence="tasks run as process 1 and must reap their own children")
        await work.save({})
        raise TryLater("the engine has no docker-init: starting without it")

    async def _not_started(self, attempt: Attempt, message: str) -> End | None:
        """The engine said that it didn't start: believe it when the claim says so, too."""
        info = await self._inspect(attempt)
        if info is not None and _time(info["State"]["StartedAt"]) is not None:
            return None
        if attempt.handle["wrapped"] and not await self._take_claim(attempt):
            return None
        code = info["State"]["ExitCode"] if info is not None else None
        return End(
            error=container.not_started(message, self._rules),
            exit_code=code if code in (126, 127) else None,
            ended_at=_now(),
        )

    async def _never_ran(self, attempt: Attempt, why: str) -> End:
        await self._take_claim(attempt)
        return End(never_ran=why, ended_at=_now())

    async def _take_claim(self, attempt: Attempt) -> bool:
        return await self._threads.call(take_claim, self._rules.attempts, attempt.key)

    # ---- following

    async def _follow(self, work: Work, fetcher: LogFetcher | None) -> End:
        """Until its end, through any absence of the engine."""
        attempt = work.attempt
        doubtful_since: float | None = None
        while True:
            try:
                info = await self._inspect(attempt)
            except EngineAway:
                if fetcher is None and (end := await self._fenced(attempt)) is not None:
                    return end
                await asyncio.sleep(1)
                continue
            if info is None:
                return await self._gone(attempt)
            started = _time(info["State"]["StartedAt"])
            if started is None:
                doubtful_since = doubtful_since or time.monotonic()
                if time.monotonic() - doubtful_since > IN_DOUBT:
                    end = await self._settle_doubt(attempt)
                    if end is not None:
                        return end
                await asyncio.sleep(0.5)
                continue
            if info["State"]["Running"]:
                await work.started(started)
                await self._wait(attempt, fetcher)
                continue
            if fetcher is not None and not await fetcher.fetch():
                await asyncio.sleep(1)
                continue
            await work.started(started)
            return await self._end(attempt, info["State"], started)

    async def _wait(self, attempt: Attempt, fetcher: LogFetcher | None) -> None:
        if fetcher is None:
            await self._engine.rest(attempt.handle["container"], LOOK_AGAIN)
        else:
            await self._engine.rest(attempt.handle["container"], fetcher.interval)
            await fetcher.fetch()

    async def _settle_doubt(self, attempt: Attempt) -> End | None:
        """A container that should have started and didn't: make sure that it never will."""
        fenced = await self._fenced(attempt)
        if fenced is not None:
            return fenced
        if attempt.handle["wrapped"] and not await self._take_claim(attempt):
            return None
        try:
            await self._engine.call(lambda api: api.remove_container(attempt.handle["container"], v=True))
        except (APIError, EngineAway):
            return None
        return End(never_ran="the engine lost the start of its container", ended_at=_now())

    async def _gone(self, attempt: Attempt) -> End:
        fenced = await self._fenced(attempt)
        if fenced is not None:
            return fenced
        if attempt.handle["wrapped"] and await self._take_claim(attempt):
            return End(never_ran="its container is gone and never ran", ended_at=_now())
        return End(lost="its container is gone", ended_at=_now())

    async def _end(self, attempt: Attempt, state: dict[str, Any], started: datetime) -> End:
        finished, code = _time(state["FinishedAt"]) or _now(), int(state["ExitCode"])
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        if attempt.boot_id != self._boot_id and finished.timestamp() >= booted:
            return End(lost="node_rebooted: the machine was restarted while it ran", ended_at=finished)
        fenced = await self._fenced(attempt, code)
        if fenced is not None:
            return replace(fenced, started_at=started, ended_at=finished)
        if attempt.handle["wrapped"] and code == NO_CLAIM:
            if await self._threads.call(given_up, self._rules.attempts, attempt.key):
                return End(never_ran="its start came after it was given up", ended_at=finished)
            if await self._take_claim(attempt):
                return End(error="its start can't be recorded (is the node's disk full?)", ended_at=finished)
        oom = bool(state.get("OOMKilled"))
        if code == SIGKILLED and not oom and attempt.spec.memory:
            oom = await self._threads.call(killed_for_memory, str(attempt.handle["container"]))
        stopped = not attempt.kill_wanted and await self._engine.ended_by_stop(
            attempt.handle["container"], started, finished
        )
        return End(
            cut="engine_stopped: the Docker engine was stopped while it ran" if stopped else None,
            exit_code=code,
            over_memory=oom and code == SIGKILLED,
            oom_events=int(oom),
            started_at=started,
            ended_at=finished,
        )

    async def _fenced(self, attempt: Attempt, code: int | None = None) -> End | None:
        """The end that its fence made of it; ``code`` is the container's, None where nobody knows it."""
        if not attempt.spec.fenced:
            return None
        look = self._fences.verdict if code in NOT_BY_ITSELF else self._fences.work_of
        done = await look(attempt)
        if done is None:
            return None
        if done.never_ran:
            return End(never_ran=f"fenced before it started: {done.reason}", ended_at=_now())
        if not done.killed or (not done.dead if code is None else code not in NOT_BY_ITSELF):
            return None
        return End(lost=f"fenced: {done.reason}", ended_at=_now())

    async def _inspect(self, attempt: Attempt) -> dict[str, Any] | None:
        try:
            return dict(
                await self._engine.call(lambda api: api.inspect_container(attempt.handle["container"]))
            )
        except ContainerNotFound:
            return None
        except APIError as error:
            raise EngineAway(str(error)) from error

    # ---- intents

    async def kill(self, attempt: Attempt, grace: float) -> None:
        await self._send(attempt, "SIGTERM")
        with contextlib.suppress(APIError):
            await self._ask(attempt, "unpause")
        await asyncio.sleep(grace)
        await self._send(attempt, "SIGKILL")

    async def fence_lives(self, attempt: Attempt) -> bool:
        return await self._fences.lives(attempt)

    @property
    def keeps_time(self) -> bool:
        return False

    @property
    def by_quota(self) -> bool:
        return True

    async def pause(self, attempt: Attempt) -> bool:
        return await self._pausing(attempt, "pause", already="already paused")

    async def resume(self, attempt: Attempt) -> bool:
        return await self._pausing(attempt, "unpause", already="not paused")

    async def _pausing(self, attempt: Attempt, verb: str, *, already: str) -> bool:
        try:
            await self._ask(attempt, verb)
        except APIError as error:
            if already not in str(error.explanation):
                raise Conflict(f"the engine can't {verb} it: {error.explanation}") from error
            return False
        return True

    async def move(self, attempt: Attempt, before: list[int], after: list[int]) -> None:  # noqa: ARG002
        cpus, found = ",".join(map(str, after)), attempt.handle["container"]
        try:
            await self._engine.call(lambda api: api.update_container(found, cpuset_cpus=cpus))
        except APIError as error:
            raise Conflict(f"the engine can't move it to CPUs {cpus}: {error.explanation}") from error
        except EngineAway as error:
            raise Unreachable(str(error)) from error

    async def signal(self, attempt: Attempt, number: int) -> None:
        try:
            await self._engine.signal(attempt.handle["container"], number)
        except APIError as error:
            raise Conflict(f"attempt {attempt.name} doesn't run", code="not_running") from error
        except EngineAway as error:
            raise Unreachable(str(error)) from error

    async def stdin(self, attempt: Attempt, offset: int, data: bytes, *, eof: bool) -> int:  # noqa: ARG002
        raise Conflict("a container has no standard input that could be fed")

    async def _send(self, attempt: Attempt, name: str) -> None:
        """A signal; that the container has ended meanwhile is fine."""
        try:
            await self._engine.signal(attempt.handle["container"], name)
        except APIError as error:
            if error.status_code not in (404, 409):
                raise Unreachable(f"the engine can't signal it: {error.explanation}") from error
        except EngineAway as error:
            raise Unreachable(str(error)) from error

    async def _ask(self, attempt: Attempt, verb: str) -> None:
        try:
            await self._engine.call(lambda api: getattr(api, verb)(attempt.handle["container"]))
        except EngineAway as error:
            raise Unreachable(str(error)) from error

    # ---- afterwards

    async def clean(self, attempt: Attempt) -> None:
        try:
            await self._remove(attempt.handle.get("container") or name_of(attempt))
        except (APIError, EngineAway) as error:
            raise Unreachable(f"its container stays: {error}") from error
        if attempt.spec.fenced:
            await self._fences.down(attempt)

    async def _remove(self, found: str) -> None:
        """Remove a container that doesn't run."""
        with contextlib.suppress(ContainerNotFound):
            await self._engine.call(lambda api: api.remove_container(found, v=True))


def _digest(attempt: Attempt, image: dict[str, Any]) -> str:
    """What an image is known by: the registry's digest where it has one, an environment's by its id."""
    known = image.get("RepoDigests") if attempt.spec.environment is None else None
    return str(known[0] if known else image["Id"])


def _now() -> datetime:
    return datetime.now(UTC)


def _time(text: str) -> datetime | None:
    """The engine's time of day, which has nanoseconds; None for its zero."""
    if text.startswith("0001-"):
        return None
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{fraction[:6] or '0':0<6}+00:00")
