"""What outlives screens: the mirror, the connection, what was done, what can be undone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hakuriver.errors import HakuRiverError, from_json
from hakuriver.lifecycle import State
from hakuriver.paths import host_path
from hakuriver.units import format_size
from hakuriver.views import EnvironmentView, SubmitView, TaskView, VersionView, WorkLine, WorkView
from tui.command_lines import batch_line, environment_line, node_line, submit_line, verb_line
from tui.environments import EnvironmentRow, rows_of
from tui.facts import instant
from tui.live import Changes, Mirror
from tui.remote import Remote

if TYPE_CHECKING:
    from hakuriver.fields import Verb

Key = TypeVar("Key", int, str)
Got = TypeVar("Got")
_AT_ONCE = 8
_MAX_ACTS = 1000


@dataclass
class Act:
    """One thing that was done here: when, the command line that does the same, and how it went."""

    number: int
    at: float
    line: str
    result: str = "…"
    ok: bool | None = None


@dataclass
class Session:
    """One per program. Every act runs through here, so that the action log is complete."""

    remote: Remote
    mirror: Mirror = field(default_factory=Mirror)
    frozen: bool = False
    acts: list[Act] = field(default_factory=list)
    histories: dict[str, list[str]] = field(default_factory=dict)
    last_filter: str = ""
    loading: dict[str, dict[str, WorkView]] = field(default_factory=dict)
    """What nodes are at that load an environment because we asked: by environment and node."""
    shells: list[str] = field(default_factory=list)
    """The environments in whose containers shells are open."""
    changed: Callable[[Changes], None] = lambda _: None
    """Told of what changed here, apart from the mirror."""

    @property
    def label(self) -> str:
        return self.remote.endpoint.label

    @property
    def subject(self) -> str | None:
        """Who we are to the host."""
        return self.mirror.cluster["subject"] if self.mirror.cluster else None

    @property
    def embedded(self) -> bool:
        return bool(self.mirror.cluster and self.mirror.cluster["embedded"])

    def environments(self) -> dict[str, EnvironmentRow]:
        """All environments by name, with what is done to them."""
        return rows_of(self.mirror.environments.values(), self.loading)

    def still_held(self) -> dict[int, float]:
        """Our kills that can be taken back, with about the seconds that are left.

        The host says which: its clock and ours may differ, and another program may have asked.
        """
        mine = (self.mirror.tasks[key] for key in sorted(self.mirror.held))
        now = time.time()
        return {
            task["id"]: max(0.0, instant(task["intent_due_at"] or "") - now)
            for task in mine
            if self.subject in (None, task["intent_by"])
        }

    async def kill(self, tasks: Iterable[TaskView], batch: int | None = None) -> str:
        """Kill with time to take it back; returns one line of what became of it."""
        ids = [task["id"] for task in tasks]
        return await self._tell("kill", ids, "kill asked for:", batch)

    async def undo(self) -> str:
        ids = list(self.still_held())
        return await self._tell("unkill", ids, "kill taken back:") if ids else "nothing to take back"

    async def pause_or_resume(self, tasks: Sequence[TaskView]) -> str:
        """Pause those that run; when none does, resume those that are paused."""
        running = [task["id"] for task in tasks if task["state"] == State.RUNNING]
        if running:
            return await self._tell("pause", running, "pause asked for:")
        paused = [task["id"] for task in tasks if task["state"] == State.PAUSED]
        if paused:
            return await self._tell("resume", paused, "resume asked for:")
        return "only running or paused tasks can be paused or resumed"

    async def hold_or_release(self, tasks: Sequence[TaskView]) -> str:
        """Hold those that wait; when none does, let go those that are held."""
        waiting = [task["id"] for task in tasks if task["state"] == State.PENDING and not task["on_hold"]]
        return await self._tell("hold", waiting, "held:") if waiting else await self.release(tasks)

    async def release(self, tasks: Iterable[TaskView]) -> str:
        on_hold = [task["id"] for task in tasks if task["on_hold"] and task["state"] == State.PENDING]
        if not on_hold:
            return "only waiting tasks can be held, and only held ones released"
        return await self._tell("release", on_hold, "released:")

    async def requeue(self, tasks: Iterable[TaskView], *, force: bool) -> str:
        ids = [task["id"] for task in tasks]
        line = verb_line("requeue --force" if force else "requeue", ids)
        call = partial(self.remote.requeue, force=force)
        return await self._each(line, ids, call, lambda id, _: str(id), said="requeued:")

    async def resubmit(self, tasks: Iterable[TaskView]) -> str:
        ids = [task["id"] for task in tasks]

        def made(id: int, answer: SubmitView) -> str:
            new = ", ".join(str(task["id"]) for task in answer["tasks"])
            return f"{id} as {new}" + "".join(f" ({warning})" for warning in answer["warnings"])

        return await self._each(
            verb_line("resubmit", ids), ids, self.remote.resubmit, made, said="submitted again:"
        )

    async def drain(self, nodes: Sequence[str], reason: str) -> str:
        call = partial(self.remote.drain, reason=reason)
        line = node_line("drain", nodes, reason)
        return await self._each(line, nodes, call, lambda name, _: name, said="draining:")

    async def undrain(self, nodes: Sequence[str]) -> str:
        line = node_line("undrain", nodes)
        return await self._each(
            line, nodes, self.remote.undrain, lambda name, _: name, said="takes tasks again:"
        )

    async def remove_nodes(self, nodes: Sequence[str]) -> str:
        line = node_line("remove", nodes)
        return await self._each(line, nodes, self.remote.remove_node, lambda name, _: name, said="removed:")

    async def start_or_stop(self, environments: Sequence[EnvironmentView]) -> str:
        """Stop the containers that run; when none does, start those that are stopped."""
        running = [view["name"] for view in environments if view["container"] == "running"]
        if running:
            line = environment_line("stop", *running)
            return await self._each(line, running, self.remote.stop_environment, _name, said="stopped:")
        stopped = [view["name"] for view in environments if view["container"] in ("stopped", "unknown")]
        return await self.start(stopped) if stopped else "there is no container: n makes one"

    async def start(self, names: Sequence[str], then: Callable[[], object] = lambda: None) -> str:
        """Start containers; ``then`` is called after each that runs."""

        async def one(name: str) -> None:
            await self.remote.start_environment(name)
            then()

        return await self._each(environment_line("start", *names), names, one, _name, said="started:")

    def note_shell(self, name: str) -> None:
        """A shell was opened: the action log says how to have one without us."""
        act = self._begin(environment_line("shell", name))
        act.ok, act.result = True, "opened"

    async def delete_environments(self, names: Sequence[str]) -> str:
        line = environment_line("delete", *names)
        said = "container deleted, versions kept:"
        return await self._each(line, names, self.remote.delete_environment, _name, said=said)

    async def rollback(self, name: str, version: int | None) -> str:
        """Let new tasks have this version, or the one before the current."""
        line = environment_line("rollback", name, *([] if version is None else [str(version)]))
        call = partial(self.remote.rollback, version=version)
        said = "new tasks get"
        return await self._each(
            line, [name], call, lambda _, found: f"{found['name']}@{found['current']}", said=said
        )

    async def remove_versions(self, name: str, versions: Sequence[VersionView]) -> str:
        numbers = [each["version"] for each in versions]
        line = environment_line("versions rm", name, *map(str, numbers))
        call = partial(self.remote.remove_version, name)
        return await self._each(line, numbers, call, lambda number, _: str(number), said="removed:")

    async def create(self, name: str, image: str) -> str:
        """Make an environment of an image; without one, of its current version."""
        line = environment_line("create", name, *filter(None, [image]))
        lines = self.remote.work(host_path("create"), {"name": name, "image": image or None})
        return await self._follow(line, name, lines)

    async def adopt(self, name: str, container: str) -> str:
        line = environment_line("adopt", container, "--name", name)
        return await self._follow(
            line, name, self.remote.work(host_path("adopt", name=name), {"container": container})
        )

    async def pack(self, name: str, note: str) -> str:
        line = environment_line("pack", name, *(["-m", note] if note else []))
        return await self._follow(line, name, self.remote.work(host_path("pack", name=name), {"note": note}))

    async def prefetch(self, name: str) -> str:
        """Load its current version on all nodes."""
        line = environment_line("prefetch", name)
        try:
            return await self._follow(line, name, self.remote.work(host_path("prefetch", name=name), {}))
        finally:
            self.loading.pop(name, None)
            self.changed(Changes(environments=frozenset({name})))

    async def submit(self, body: dict[str, Any]) -> SubmitView:
        """Submit; the host's error is raised after it stands in the action log."""
        act = self._begin(submit_line(body))
        try:
            answer = await self.remote.submit(body)
        except HakuRiverError as error:
            act.ok, act.result = False, error.message
            raise
        refused = "; ".join(each["error"]["message"] for each in answer["refused"])
        ids = ", ".join(str(task["id"]) for task in answer["tasks"])
        parts = [f"task {ids}", f"refused: {refused}" if refused else "", *answer["warnings"]]
        act.ok, act.result = not refused, "; ".join(filter(None, parts))
        return answer

    async def _tell(self, verb: Verb, ids: Sequence[int], said: str, batch: int | None = None) -> str:
        """The same intent for several tasks; one line about all."""
        act = self._begin(verb_line(verb, ids) if batch is None else batch_line(verb, batch))
        try:
            answer = await self.remote.intents(verb, ids)
        except HakuRiverError as error:
            act.ok, act.result = False, error.message
            return act.result
        done = [str(task["id"]) for task in answer["items"]]
        refused = {str(each["id"]): str(each["error"]["message"]) for each in answer["refused"]}
        return self._finish(act, said, done, refused)

    async def _follow(self, line: str, name: str, lines: AsyncGenerator[WorkLine, None]) -> str:
        """Something long, to its end; one line of what became of it, on each node where it is done there."""
        act = self._begin(line)
        done: list[str] = []
        failed: dict[str, str] = {}
        try:
            async with aclosing(lines):
                async for each in lines:
                    node = each.get("node")
                    if each["type"] == "progress" and node:
                        self._load(name, node, each["work"])
                    elif each["type"] == "done":
                        done.append(_outcome(name, each))
                    elif each["type"] == "error":
                        failed[node or name] = _said(from_json(each["error"].get("status", 500), each))
                    if each["type"] != "progress" and not node:
                        break
        except HakuRiverError as error:
            failed[name] = _said(error)
        if not done and not failed:
            failed[name] = "the host ended its answer early; what became of it shows here"
        return self._finish(act, "", done, failed)

    def _load(self, name: str, node: str, work: WorkView) -> None:
        self.loading.setdefault(name, {})[node] = work
        self.changed(Changes(environments=frozenset({name})))

    async def _each(
        self,
        line: str,
        keys: Sequence[Key],
        call: Callable[[Key], Awaitable[Got]],
        shown: Callable[[Key, Got], str],
        *,
        said: str,
    ) -> str:
        """The same for several tasks or nodes, a few at a time; one line about all."""
        act = self._begin(line)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(key: Key) -> tuple[str, str]:
            async with limit:
                try:
                    return shown(key, await call(key)), ""
                except HakuRiverError as error:
                    return str(key), _said(error)

        outcomes = await asyncio.gather(*map(one, keys))
        done = [text for text, error in outcomes if not error]
        return self._finish(act, said, done, {text: error for text, error in outcomes if error})

    @staticmethod
    def _finish(act: Act, said: str, done: Sequence[str], refused: Mapping[str, str]) -> str:
        act.ok = not refused
        names = ", ".join(done[:8]) + ("…" if len(done) > 8 else "")
        parts = [f"{said} {names}".strip()] if done else []
        parts += [f"{key}: {error}" for key, error in list(refused.items())[:3]]
        act.result = "; ".join(parts)
        return act.result

    def _begin(self, line: str) -> Act:
        act = Act(len(self.acts) + 1, time.time(), line)
        self.acts.append(act)
        del self.acts[:-_MAX_ACTS]
        return act


def _said(error: HakuRiverError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def _name(name: str, _: object) -> str:
    return name


def _outcome(name: str, line: WorkLine) -> str:
    """What a work made: a version, or a container that runs; with what there is to say of it."""
    warning = f" ({line['warning']})" if line.get("warning") else ""
    version = line.get("version")
    if node := line.get("node"):
        number = f"@{version['version']}" if version else ""
        return f"{node} has {name}{number}{warning}"
    if version is not None:
        which = "new tasks get it" if version["current"] else "another one is newer"
        size = format_size(version["size"])
        return f"packed {name}@{version['version']}, {size}: {which}{warning}"
    return f"{name}: its container runs{warning}"
