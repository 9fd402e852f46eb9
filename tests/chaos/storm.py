"""Random faults from a seed, while jobs are submitted and run; then the history is checked."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.chaos.history import ENDS, Job
from tests.chaos.lab import Daemon, Lab
from tests.chaos.proxy import Mood
from tests.chaos.work import settled, submit

BAD_NETWORK = Mood(lose_request=0.15, lose_answer=0.15, repeat=0.15, delay=0.1)


@dataclass
class Outcome:
    """What a storm did and what broke."""

    jobs: int
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Resident KiB before and after, of daemons that lived through it."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        total = sum(self.faults.values())
        kib = "".join(f", {name} {a} → {b} KiB" for name, (a, b) in self.memory.items())
        return f"{self.jobs} jobs; {total} faults ({kinds}); {len(self.violations)} violations{kib}"


def make_jobs(seed: int, count: int) -> dict[int, Job]:
    """Short and longer ones, small and large streams, all kinds of ends."""
    source = random.Random(seed)
    return {
        nonce: Job(
            nonce,
            seconds=source.choice((0, 0, 0.05, 0.3, 1.5)),
            lines=source.choice((0, 1, 50, 400)),
            end=source.choice(ENDS),
        )
        for nonce in range(1, count + 1)
    }


def storm(
    lab: Lab,
    *,
    seconds: float,
    jobs: int,
    images: tuple[str | None, ...] = (None,),
    kills: bool = True,
) -> Outcome:
    """Submit ``jobs`` jobs over ``seconds`` seconds of faults, heal, wait for all ends, check."""
    outcome = Outcome(jobs)
    todo = make_jobs(lab.seed, jobs)
    over = threading.Event()
    before = {daemon.name: daemon.memory() for daemon in lab.daemons}
    faults = threading.Thread(target=_hurt, args=(lab, outcome.faults, over, kills))
    # a machine so busy that no host lives long enough to answer must get some peace in the end
    peace = threading.Timer(seconds + 30, over.set)
    faults.start()
    peace.start()
    try:
        _submit_all(lab, todo, seconds, images)
    finally:
        peace.cancel()
        over.set()
        faults.join()
    lab.weather(Mood())
    outcome.faults["request hurt"] = sum(proxy.faults for proxy in lab.proxies)
    outcome.violations = settled(lab, todo)
    for daemon in lab.daemons:
        (old, first), (pid, last) = before[daemon.name], daemon.memory()
        if pid == old:
            outcome.memory[daemon.name] = (first, last)
    return outcome


def _submit_all(lab: Lab, jobs: dict[int, Job], seconds: float, images: tuple[str | None, ...]) -> None:
    started = time.monotonic()
    deadline = started + seconds + 120

    def one(job: Job) -> None:
        submit(lab, job, images[job.nonce % len(images)], deadline=deadline)

    with ThreadPoolExecutor(8) as pool:
        waiting = []
        for place, job in enumerate(jobs.values()):
            time.sleep(
                max(0.0, started + seconds * place / len(jobs) - time.monotonic())
            )  # pacing, not waiting
            waiting.append(pool.submit(one, job))
        for each in waiting:
            each.result()


def _hurt(lab: Lab, count: Counter[str], over: threading.Event, kills: bool) -> None:
    """One fault after the other until it is over; leaves all daemons running."""
    source = random.Random(lab.seed * 7919)
    while not over.wait(source.uniform(0.05, 0.6)):
        victims = source.choice(([lab.host], lab.runners[:1], lab.runners[-1:], lab.runners, lab.daemons))
        kind = source.choice((*("kill -9",) * 3 * kills, "freeze", "bad network", "cut", "good network"))
        count[kind if len(victims) == 1 else f"{kind} of several"] += 1
        if kind == "kill -9":
            _kill(victims, over, source.choice((0.0, 0.0, 0.3, 1.0)))
        elif kind == "freeze":
            for victim in victims:
                victim.send(signal.SIGSTOP)
            over.wait(source.uniform(0.1, 3.0))
            for victim in victims:
                victim.send(signal.SIGCONT)
        elif kind == "cut":
            lab.weather(Mood(cut=True))
            over.wait(source.uniform(0.2, 3.0))
            lab.weather(Mood())
        else:
            lab.weather(BAD_NETWORK if kind == "bad network" else Mood())


def _kill(victims: list[Daemon], over: threading.Event, pause: float) -> None:
    for victim in victims:
        victim.kill9()
    over.wait(pause)
    for victim in victims:
        victim.start()
