"""kill -9 of the runner, again and again, while tasks write binary: no byte is lost or doubled."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.lab import Lab, lab
from tests.chaos.work import contained, reaches, runs
from tests.waiting import until

SIZE = 10 * 2**20
PIECE = 2**16
KILLS = 6
# the streams are files that the test made; a breath between the pieces makes room for the kills
WRITE = f"""
i=0
while [ $i -lt {SIZE // PIECE} ]; do
  dd if="$1" bs={PIECE} skip=$i count=1 2>/dev/null
  dd if="$2" bs={PIECE} skip=$i count=1 >&2 2>/dev/null
  i=$((i + 1)); sleep 0.02
done
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("streams") / "lab", seed=3, nodes=1) as made:
        yield made


def _streams(folder: Path, seed: int) -> dict[str, str]:
    """Two files of random bytes; the sha256 of each by the name of its stream."""
    source = random.Random(seed)
    digests = {}
    for stream in ("stdout", "stderr"):
        data = source.randbytes(SIZE)
        (folder / f"{seed}.{stream}").write_bytes(data)
        digests[stream] = hashlib.sha256(data).hexdigest()
    return digests


def _longer(path: Path, size: int) -> bool:
    return path.stat().st_size > size


def write_through(made: Lab, kind: str | None, seed: int, hurt: Callable[[], None]) -> None:
    """A task writes both streams while something is hurt again and again, evenly over all that it writes."""
    want = _streams(made.journal.parent, seed)
    folder = "/shared" if contained(kind) else str(made.journal.parent)
    command = ["sh", "-c", WRITE, "sh", f"{folder}/{seed}.stdout", f"{folder}/{seed}.stderr"]
    body = {"command": command, "cores": 0, "targets": ["n0"]} | runs(kind)
    task = made.submit(seed, body, time.monotonic() + 60)
    reaches(made, task, "running")
    local = made.attempt_folder("n0", task) / "io" / "out"
    for number in range(KILLS):
        least = SIZE // (KILLS + 1) * number + PIECE
        until(partial(_longer, local, least), "more was written")
        hurt()
    assert reaches(made, task, "completed", "failed", "lost", seconds=60)["state"] == "completed"
    got = {stream: hashlib.sha256(made.log(task, stream)).hexdigest() for stream in want}
    assert got == want


def kill_runner(made: Lab) -> None:
    """kill -9 of the first, and another one in its place."""
    runner = made.runners[0]
    runner.kill9()
    runner.start()


def test_a_process(one: Lab) -> None:
    write_through(one, None, 1, partial(kill_runner, one))


@pytest.mark.docker
def test_a_container(one: Lab, busybox: str) -> None:
    write_through(one, busybox, 2, partial(kill_runner, one))
