"""What really happened, as the tasks themselves wrote it down, held against what the API says.

Every task of a chaos run appends ``S <nonce> <attempt>`` to a journal when it starts and
``E <nonce> <attempt>`` when it is about to end, and writes streams that can be computed from its nonce.
While any process of it lives it holds a file of its nonce open and, where there is flock (not in a busybox),
locked: who finds it locked writes ``O <nonce> <attempt>``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SIGNALS = {"SEGV": 11, "KILL": 9, "TERM": 15}
ENDS = ("exit 0", "exit 7", "exit 139", "kill -SEGV $$", "kill -KILL $$", "exit 1")


@dataclass(frozen=True)
class Job:
    """One task of a run: how long it sleeps, how many lines it writes, how it ends, what is asked of it."""

    nonce: int
    seconds: float
    lines: int
    end: str
    intents: tuple[str, ...] = ()
    """``kill``, or ``pause`` and ``resume``, asked for in this order at some time of its life."""
    on_node_loss: str = "keep"
    gate: str = ""
    """A file that it waits for, after its sleep."""

    def command(self, journal: str) -> list[str]:
        """The task's argv."""
        wait = f"sleep {self.seconds}; "
        if self.gate:
            wait += f"until [ -e {self.gate} ]; do sleep 0.05; done; "
        script = (
            f'echo "S {self.nonce} $HAKURIVER_ATTEMPT" >>"$1"; '
            f'exec 9>>"$1.locks/{self.nonce}"; ! command -v flock >/dev/null || '
            f'flock -n 9 || echo "O {self.nonce} $HAKURIVER_ATTEMPT" >>"$1"; '
            f"i=0; while [ $i -lt {self.lines} ]; do i=$((i + 1)); "
            f"echo {self.nonce} $i; echo {self.nonce} $i >&2; done; "
            f"{wait}echo {self.nonce} last; "
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


def violations(
    jobs: Mapping[int, Job],
    seen: Mapping[int, list[Seen]],
    journal: Iterable[str],
    alive: Collection[int] = (),
) -> list[str]:
    """Everything that breaks the promise, one line each. ``seen`` has the tasks of each nonce, ``alive`` the
    nonces of which something still runs."""
    wrote: dict[str, dict[int, list[str]]] = {kind: defaultdict(list) for kind in "SEO"}
    found: list[str] = []
    for line in journal:
        kind, number, attempt = line.split()
        wrote[kind][int(number)].append(attempt)
    starts, ends, overlaps = wrote["S"], wrote["E"], wrote["O"]
    for nonce, job in jobs.items():
        tasks = seen.get(nonce, [])
        if len(tasks) != 1:
            found.append(f"job {nonce}: {len(tasks)} tasks in place of one")
            continue
        found += [f"job {nonce} (task {tasks[0].task['id']}): {what}" for what in _of_one(job, tasks[0])]
        if not _right_times(job, tasks[0], starts[nonce], ends[nonce]):
            found.append(f"job {nonce}: started {starts[nonce]}, ended {ends[nonce]}: not exactly once")
    found += [f"job {nonce} ran without having been submitted" for nonce in starts if nonce not in jobs]
    found += [f"job {nonce}: attempts {overlaps[nonce]} began while another one lived" for nonce in overlaps]
    found += [f"job {nonce} still runs" for nonce in sorted(alive)]
    ids = [each.task["id"] for tasks in seen.values() for each in tasks]
    if len(set(ids)) != len(ids):
        found.append("an id was used twice")
    return found


def _right_times(job: Job, seen: Seen, starts: list[str], ends: list[str]) -> bool:
    """Whether it started and ended as often as it may: each attempt once, and only one unless it may move."""
    if max(Counter(starts).values(), default=0) > 1 or max(Counter(ends).values(), default=0) > 1:
        return False
    if seen.task["state"] == "killed" and "kill" in job.intents:
        return len(starts) <= 1 and set(ends) <= set(starts)
    if job.on_node_loss == "requeue":
        # an end of an earlier attempt that its host never heard of is no end of the task
        last = str(seen.task["attempt"])
        return last in starts and last in ends and set(ends) <= set(starts)
    return len(starts) == 1 and ends == starts


def _of_one(job: Job, seen: Seen) -> Iterable[str]:
    task = seen.task
    killed = task["state"] == "killed" and "kill" in job.intents
    told = (task["state"], task["exit_code"], task["signal"])
    right = job.outcome(task["executor"])
    if told != right and not killed:
        yield f"ended as {right}, told as {told} ({task['reason']})"
    for name, have, want in (("stdout", seen.stdout, job.stdout), ("stderr", seen.stderr, job.stderr)):
        if have != want and not (killed and want.startswith(have)):
            yield f"{name} has {len(have)} bytes in place of {len(want)}"
