"""What really happened, as the tasks themselves wrote it down, held against what the API says.

Every task of a chaos run appends ``S <nonce> <attempt>`` to a journal when it starts and
``E <nonce> <attempt>`` when it is about to end, and writes streams that can be computed from its nonce.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SIGNALS = {"SEGV": 11, "KILL": 9, "TERM": 15}
ENDS = ("exit 0", "exit 7", "exit 139", "kill -SEGV $$", "kill -KILL $$", "exit 1")


@dataclass(frozen=True)
class Job:
    """One task of a run: how long it sleeps, how many lines it writes, how it ends."""

    nonce: int
    seconds: float
    lines: int
    end: str

    def command(self, journal: str) -> list[str]:
        """The task's argv."""
        script = (
            f'echo "S {self.nonce} $HAKURIVER_ATTEMPT" >>"$1"; '
            f"i=0; while [ $i -lt {self.lines} ]; do i=$((i + 1)); "
            f"echo {self.nonce} $i; echo {self.nonce} $i >&2; done; "
            f"sleep {self.seconds}; echo {self.nonce} last; "
            f'echo "E {self.nonce} $HAKURIVER_ATTEMPT" >>"$1"; {self.end}'
        )
        return ["sh", "-c", script, "sh", journal]

    @property
    def stdout(self) -> bytes:
        return self.stderr + f"{self.nonce} last\n".encode()

    @property
    def stderr(self) -> bytes:
        return "".join(f"{self.nonce} {number}\n" for number in range(1, self.lines + 1)).encode()

    def outcome(self, executor: str) -> tuple[str, int | None, int | None]:
        """The right (state, exit code, signal). In a container a signal can't be told from 128+n."""
        if self.end.startswith("exit"):
            code = int(self.end.split()[1])
            return ("completed" if code == 0 else "failed", code, None)
        number = SIGNALS[self.end.split()[1].removeprefix("-")]
        return ("failed", 128 + number, None) if executor == "docker" else ("failed", None, number)


@dataclass(frozen=True)
class Seen:
    """One task as the API shows it at the end, with its whole streams."""

    task: Mapping[str, Any]
    stdout: bytes
    stderr: bytes


def violations(jobs: Mapping[int, Job], seen: Mapping[int, list[Seen]], journal: Iterable[str]) -> list[str]:
    """Everything that breaks the promise, one line each. ``seen`` has the tasks of each nonce."""
    starts: dict[int, list[str]] = defaultdict(list)
    ends: dict[int, list[str]] = defaultdict(list)
    found: list[str] = []
    for line in journal:
        kind, number, attempt = line.split()
        (starts if kind == "S" else ends)[int(number)].append(attempt)
    for nonce, job in jobs.items():
        tasks = seen.get(nonce, [])
        if len(tasks) != 1:
            found.append(f"job {nonce}: {len(tasks)} tasks in place of one")
            continue
        found += [f"job {nonce} (task {tasks[0].task['id']}): {what}" for what in _of_one(job, tasks[0])]
        if len(starts[nonce]) != 1 or len(ends[nonce]) != 1:
            found.append(f"job {nonce}: started {starts[nonce]}, ended {ends[nonce]}: not exactly once")
    found += [f"job {nonce} ran without having been submitted" for nonce in starts if nonce not in jobs]
    ids = [each.task["id"] for tasks in seen.values() for each in tasks]
    if len(set(ids)) != len(ids):
        found.append("an id was used twice")
    return found


def _of_one(job: Job, seen: Seen) -> Iterable[str]:
    task = seen.task
    told = (task["state"], task["exit_code"], task["signal"])
    right = job.outcome(task["executor"])
    if told != right:
        yield f"ended as {right}, told as {told} ({task['reason']})"
    for name, have, want in (("stdout", seen.stdout, job.stdout), ("stderr", seen.stderr, job.stderr)):
        if have != want:
            yield f"{name} has {len(have)} bytes in place of {len(want)}"
