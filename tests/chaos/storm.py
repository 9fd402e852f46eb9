"""Random faults from a seed, while jobs are submitted and run; then the history is checked."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tests.chaos.history import ENDS, Job
from tests.chaos.keepers import Keepers
from tests.chaos.lab import Daemon, Lab
from tests.chaos.memory import Growth, Memory
from tests.chaos.proxy import Mood
from tests.chaos.work import contained, intend, settled, submit

BAD_NETWORK = Mood(lose_request=0.15, lose_answer=0.15, repeat=0.15, delay=0.1, late=0.1)
INTENTS = ((),) * 6 + (("kill",), ("pause", "resume"))


@dataclass
class Outcome:
    """What a storm did and what broke."""

    jobs: int
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    memory: dict[str, Growth] = field(default_factory=dict)
    """Of the daemons that lived through it."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items()))
        total = sum(self.faults.values())
        memory = "".join(f"; {name} {growth}" for name, growth in self.memory.items())
        return f"{self.jobs} jobs; {total} faults ({kinds}); {len(self.violations)} violations{memory}"


def make_jobs(seed: int, count: int) -> dict[int, Job]:
    """Short and longer ones, small and large streams, all kinds of ends, and intents for some."""
    source = random.Random(seed)
    return {
        nonce: Job(
            nonce,
            seconds=source.choice((0, 0, 0.05, 0.3, 1.5)),
            lines=source.choice((0, 1, 50, 400)),
            end=source.choice(ENDS),
            intents=source.choice(INTENTS),
            on_node_loss=source.choice(("keep", "keep", "keep", "requeue")),
        )
        for nonce in range(1, count + 1)
    }


def storm(
    lab: Lab,
    *,
    seconds: float,
    jobs: int,
    kinds: tuple[str | None, ...] = (None,),
    kills: bool = True,
) -> Outcome:
    """Submit ``jobs`` jobs over ``seconds`` seconds of faults, heal, wait for all ends, check."""
    outcome = Outcome(jobs)
    todo = make_jobs(lab.seed, jobs)
    over = threading.Event()
    faults = threading.Thread(target=_hurt, args=(lab, outcome.faults, over, kills))
    # a machine so busy that no host lives long enough to answer must get some peace in the end
    peace = threading.Timer(seconds + 30, over.set)
    faults.start()
    peace.start()
    try:
        with Memory(lab.daemons) as memory:
            _submit_all(lab, todo, seconds, kinds)
    finally:
        peace.cancel()
        over.set()
        faults.join()
    lab.weather(Mood())
    outcome.memory = memory.growth()
    outcome.faults["kill -9"] = sum(daemon.kills for daemon in lab.daemons)
    for proxy in lab.proxies:
        outcome.faults.update(proxy.faults)
    outcome.violations = settled(lab, todo)
    return outcome


def _submit_all(lab: Lab, jobs: dict[int, Job], seconds: float, kinds: tuple[str | None, ...]) -> None:
    started = time.monotonic()
    deadline = started + seconds + 120
    with ThreadPoolExecutor(8) as pool:
        waiting = []
        for place, job in enumerate(jobs.values()):
            time.sleep(
                max(0.0, started + seconds * place / len(jobs) - time.monotonic())
            )  # pacing, not waiting
            waiting.append(pool.submit(_give, lab, job, kinds[job.nonce % len(kinds)], deadline))
        for each in waiting:
            each.result()


def _give(lab: Lab, job: Job, kind: str | None, deadline: float) -> None:
    """Submit a job, and ask of it what is to be asked, at any time of its life."""
    if contained(kind):
        job = replace(job, on_node_loss="keep")
    task = submit(lab, job, kind, deadline=deadline)
    source = random.Random(lab.seed * 31 + job.nonce)
    for intent in job.intents:
        time.sleep(source.choice((0, 0.05, 0.5, 1.5)))
        intend(lab, task, intent, deadline)


def _hurt(lab: Lab, count: Counter[str], over: threading.Event, kills: bool) -> None:
    """One fault after the other until it is over; leaves all daemons running."""
    source = random.Random(lab.seed * 7919)
    weather = Mood()
    keepers = Keepers(lab)
    while not over.wait(source.uniform(0.05, 0.6)):
        victims = source.choice(([lab.host], lab.runners[:1], lab.runners[-1:], lab.runners, lab.daemons))
        kind = source.choice(
            (
                *("kill", "kill", "kill", "keeper", "keeper") * kills,
                "freeze",
                "cut",
                "one-way cut",
                *("weather",) * 3,
            )
        )
        if kind == "kill":
            _kill(victims, over, source.choice((0.0, 0.0, 0.3, 1.0)))
        elif kind == "keeper":
            count["kill -9 of keepers"] += keepers.kill_some(source)
        elif kind == "freeze":
            count[kind] += len(victims)
            for victim in victims:
                victim.send(signal.SIGSTOP)
            over.wait(source.uniform(0.1, 3.0))
            for victim in victims:
                victim.send(signal.SIGCONT)
        elif kind == "weather":
            weather = source.choice((Mood(), BAD_NETWORK, BAD_NETWORK))
            lab.weather(weather)
            count["bad weather"] += weather == BAD_NETWORK
        else:
            count[kind] += 1
            there_only = replace(weather, lose_request=1.0, silent=source.random() < 0.5)
            back_only = replace(weather, lose_answer=1.0, silent=there_only.silent)
            lab.weather(Mood(cut=True) if kind == "cut" else source.choice((there_only, back_only)))
            over.wait(source.uniform(0.2, 3.0))
            lab.weather(weather)


def _kill(victims: list[Daemon], over: threading.Event, pause: float) -> None:
    for victim in victims:
        victim.kill9()
    over.wait(pause)
    for victim in victims:
        victim.start()
