"""``make bench``: what things cost, as ratios or per operation; printed, never asserted.

Runs a real cluster in a temporary folder. A number without a unit is a ratio to the plain thing beside it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemons.host.scheduling.passes import place
from hakuriver.api import Client
from hakuriver.endpoint import local
from tests.bench import queues, tarballs
from tests.bench.terminal import terminal
from tests.e2e.cluster import HAKURIVER, Cluster

Row = tuple[str, str]


def median_seconds(action: Callable[[], object], runs: int = 7) -> float:
    """The median time of an action, after one run that doesn't count."""
    action()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def command_line(cluster: Cluster) -> Iterator[Row]:
    plain = median_seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    for name, arguments in (
        ("--version", ["--version"]),
        ("task list", ["task", "list"]),
        ("nodes", ["nodes"]),
    ):
        cost = median_seconds(lambda arguments=arguments: cluster.cli(*arguments))  # type: ignore[misc]
        yield f"hakuriver {name}", f"{cost * 1000:.0f} ms, {cost / plain:.1f} × an empty python"
    run = median_seconds(lambda: cluster.cli("run", "--cores", "0", "--", "true"))
    yield "hakuriver run -- true", f"{run * 1000:.0f} ms, {run / plain:.1f} × an empty python"


def submissions(cluster: Cluster) -> Iterator[Row]:
    endpoint = local(cluster.folder)
    body = {"command": ["true"], "cores": 0}

    def submit(_: int = 0) -> None:
        Client(endpoint.url, endpoint.token).request("POST", "/api/tasks", body=body)

    one = median_seconds(submit, 100)
    yield "submit, one at a time", f"{one * 1000:.2f} ms each"
    started = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(submit, range(1000)))
    many = (time.perf_counter() - started) / 1000
    yield "submit, 16 at a time", f"{many * 1000:.2f} ms each, {many / one:.2f} × alone"
    while cluster.ok("task", "list", "--state", "live", "-n", "1"):
        pass
    whole = (time.perf_counter() - started) / 1000
    yield "1,000 × true: submit to end", f"{whole * 1000:.2f} ms each"


def scheduling() -> Iterator[Row]:
    for tasks, nodes in ((1_000, 10), (10_000, 100), (100_000, 100)):
        queue, cluster = queues.make(tasks, nodes)
        cost = median_seconds(lambda queue=queue, cluster=cluster: place(queue, cluster), 3)  # type: ignore[misc]
        yield (
            f"scheduler pass, {tasks} queued × {nodes} nodes × {nodes * 8} GPUs",
            f"{cost * 1000:.1f} ms, {cost / tasks * 1e6:.2f} µs a task",
        )


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hakuriver-bench-") as folder:
        cluster = Cluster(Path(folder) / "state")
        cluster.up()
        try:
            for rows in (
                command_line(cluster),
                submissions(cluster),
                scheduling(),
                terminal(),
                tarballs.rows(),
            ):
                for name, value in rows:
                    print(f"{name:<48} {value}", flush=True)
        finally:
            cluster.down()
    return 0


if __name__ == "__main__":
    assert HAKURIVER
    sys.exit(main())
