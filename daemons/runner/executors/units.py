"""systemd's transient units by its own tools: start, ask, kill, release. Blocking parts run in threads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from daemons.common.threads import Threads
from daemons.runner.probes.engines import Systemd, user_environment

PATIENCE = 10.0  # seconds in which systemd must answer
_SHOWN = ("LoadState", "ActiveState", "MainPID", "Result")


class Silent(Exception):
    """systemd didn't answer: nobody knows whether it did what it was asked."""


class Refused(Exception):
    """systemd didn't do what it was asked: what it said."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as systemd sees it. ``main``: the pid of its main process, 0 when that is gone."""

    loaded: bool
    active: str
    main: int
    result: str

    @property
    def failed(self) -> bool:
        return self.active == "failed"

    @property
    def up(self) -> bool:
        """Whether it runs, or is about to, or still has to be ended."""
        return self.active not in ("failed", "inactive")

    @property
    def led(self) -> bool:
        """Whether its main process lives, or may still come."""
        return self.up and (self.main != 0 or self.active == "activating")


class Units:
    """The manager that this runner may use."""

    def __init__(self, systemd: Systemd) -> None:
        self._sudo = ["sudo", "-n"] if systemd.how == "sudo" else []
        self._mine = ["--user"] if systemd.how == "user" else []
        self._environ = dict(user_environment()) | {"LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        self._threads = Threads("units", 4)

    def close(self) -> None:
        self._threads.close()

    async def start(self, name: str, described: str, properties: Sequence[str], argv: Sequence[str]) -> None:
        """Start a service; it is one of that name already: nothing. Raises Refused, Silent."""
        words = ["--no-block", "--quiet", f"--unit={name}", f"--description={described}"]
        words += [f"--property={each}" for each in properties]
        # systemd puts variables into the words of a command, and $$ is how it spells $
        words += ["--", *(each.replace("$", "$$") for each in argv)]
        try:
            await self._ask("systemd-run", *words)
        except Refused as error:
            if "already" not in str(error):
                raise

    async def show(self, name: str) -> Unit:
        """Raises Refused, Silent."""
        answer = await self._ask("systemctl", "show", f"--property={','.join(_SHOWN)}", "--", name)
        facts = dict(line.partition("=")[::2] for line in answer.splitlines())
        return Unit(
            loaded=facts.get("LoadState") == "loaded",
            active=facts.get("ActiveState", "inactive"),
            main=int(facts.get("MainPID") or 0),
            result=facts.get("Result", ""),
        )

    async def kill(self, name: str) -> None:
        """KILL everything in it; raises Refused, Silent."""
        await self._ask("systemctl", "kill", "--kill-who=all", "--signal=SIGKILL", "--", name)

    async def release(self, name: str) -> None:
        """Let systemd forget that it failed; raises Silent."""
        try:
            await self._ask("systemctl", "reset-failed", "--", name)
        except Refused:
            return  # it is forgotten already

    async def list(self, pattern: str) -> list[tuple[str, str]]:
        """``(name, description)`` of the services whose name matches; raises Refused, Silent."""
        words = ("--all", "--full", "--plain", "--no-legend", "--no-pager", "--type=service")
        answer = await self._ask("systemctl", "list-units", *words, "--", pattern)
        rows = (line.split(None, 4) for line in answer.splitlines())
        return [(row[0], row[4]) for row in rows if len(row) == 5]

    async def _ask(self, tool: str, *words: str) -> str:
        try:
            return await self._threads.call_within(PATIENCE + 5, lambda: self._run(tool, *words))
        except TimeoutError:
            raise Silent("systemd doesn't answer") from None

    def _run(self, tool: str, *words: str) -> str:
        argv = [*self._sudo, tool, *self._mine, *words]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
                env=self._environ,
                cwd="/",
            )
        except subprocess.TimeoutExpired:
            raise Silent("systemd doesn't answer") from None
        except OSError as error:
            raise Refused(f"{os.path.basename(argv[0])}: {error.strerror}") from error  # noqa: PTH119
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise Refused(said.splitlines()[-1][:300] if said else f"{tool} failed ({done.returncode})")
        return done.stdout.decode("utf-8", "replace")
