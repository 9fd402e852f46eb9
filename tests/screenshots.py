"""``make screenshots``: pictures of the TUI over a live cluster that does real work, into screenshots/."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from textual.pilot import Pilot

from hakuriver.endpoint import local
from tests.e2e.cluster import Cluster
from tests.waiting import until
from tui.app import HakuRiverApp

FOLDER = Path(__file__).parent.parent / "screenshots"
TRAINING = """
for epoch in $(seq 1 200); do
  printf '\\033[36mepoch %3d\\033[0m  loss \\033[32m0.%04d\\033[0m' "$epoch" $((9000 / epoch))
  printf '  %d samples/s\\n' $((4100 + epoch % 7))
  sleep 0.2
done
"""


def work(cluster: Cluster) -> None:
    """A morning in a small lab, in a few seconds."""
    for name, code in (("unpack-imagenet", 0), ("resize-masks", 0), ("eval-baseline", 1), ("export-onnx", 0)):
        cluster.submit("sh", "-c", f"echo working; exit {code}", flags=["--name", name, "--tag", "vision"])
    cluster.wait(*(task["id"] for task in cluster.ok("task", "list")))
    running = cluster.submit(
        "sh", "-c", TRAINING, flags=["--name", "train-resnet", "--tag", "vision", "--memory", "2G"]
    )
    cluster.submit("sh", "-c", "sleep 120", flags=["--name", "tokenize-corpus", "--memory", "1G"])
    for seed in range(1, 6):
        cluster.submit(
            "python3", "train.py", f"--seed={seed}", flags=["--name", f"sweep-{seed}", "--cores", "2"]
        )
    until(lambda: len(cluster.log(running).splitlines()) > 25, "a log to look at", seconds=30)


async def shoot(cluster: Cluster) -> None:
    for name, size, keys in (
        ("overview", (160, 48), ["j"] * 6),
        ("overview-80x24", (80, 24), ["j"] * 6),
        ("tasks", (160, 48), ["3"]),
        ("submit", (160, 48), ["n"]),
        ("help", (120, 40), ["question_mark"]),
    ):
        app = HakuRiverApp(local(cluster.folder))
        async with app.run_test(size=size) as pilot:
            await live(app, pilot)
            await pilot.press(*keys)
            await settle(pilot)
            picture = app.export_screenshot(title="HakuRiver", simplify=True)
            (FOLDER / f"{name}.svg").write_text(_without_web_fonts(picture), "utf-8")
            print(f"screenshots/{name}.svg")


def _without_web_fonts(picture: str) -> str:
    """A picture that fetches nothing: the reader's own monospace font."""
    picture = re.sub(r"@font-face \{.*?\}\n?", "", picture, flags=re.DOTALL)
    return re.sub(r"font-family: [^;]*Fira Code[^;]*;", "font-family: DejaVu Sans Mono, monospace;", picture)


async def live(app: HakuRiverApp, pilot: Pilot[int]) -> None:
    deadline = time.monotonic() + 10
    while app.session.mirror.status.link != "live":
        assert time.monotonic() < deadline, "the TUI never got its snapshot"
        await pilot.pause(0.05)


async def settle(pilot: Pilot[int]) -> None:
    """Two heartbeats' worth of redraws, for bars and the log to fill."""
    for _ in range(30):
        await pilot.pause(0.1)


def main() -> int:
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory(prefix="hakuriver-") as folder:
        cluster = Cluster(Path(folder) / "lab")
        cluster.up()
        try:
            work(cluster)
            asyncio.run(shoot(cluster))
        finally:
            cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
