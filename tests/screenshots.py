"""``make screenshots``: pictures of the TUI over a live cluster that does real work, into screenshots/."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import docker
from textual.keys import _character_to_key
from textual.pilot import Pilot

from hakuriver.endpoint import local
from tests import images
from tests.e2e.cluster import Cluster
from tests.fakes.driver import FakeDriver, build
from tests.waiting import until
from tui.app import HakuRiverApp

GPUS = ("count 8", "name NVIDIA A100-SXM4-80GB", "memtotal 81920")
BUSY = (
    *GPUS,
    *(f"{gpu} {fact}" for gpu in (0, 1) for fact in ("util 97", "memused 58200", "temp 71", "power 331000")),
    *("2 util 0", "2 memused 31000", "2 temp 38", "2 power 74000"),
    *(f"{gpu} {fact}" for gpu in (3, 4) for fact in ("util 64", "memused 22800", "temp 63", "power 240000")),
    *("5 util 88", "5 memused 12000", "5 temp 66", "5 proc 1 12000"),
    *("6 util 0", "6 memused 600", "6 temp 34"),
    "7 ret 15",
)
"""Two trained on, one only held, two of the sweep; somebody else's, and one that fell off the bus."""
IMAGE = "lab/busybox:1"
ENVIRONMENTS = ("torch", "jax-nightly")
FOLDER = Path(__file__).parent.parent / "screenshots"
TRAINING = """
for epoch in $(seq 1 200); do
  printf '\\033[36mepoch %3d\\033[0m  loss \\033[32m0.%04d\\033[0m' "$epoch" $((9000 / epoch))
  printf '  %d samples/s\\n' $((4100 + epoch % 7))
  sleep 0.2
done
"""


def work(cluster: Cluster, driver: FakeDriver) -> None:
    """A morning in a small lab, in a few seconds."""
    for name, code in (("unpack-imagenet", 0), ("resize-masks", 0), ("eval-baseline", 1), ("export-onnx", 0)):
        cluster.submit("sh", "-c", f"echo working; exit {code}", flags=["--name", name, "--tag", "vision"])
    cluster.wait(*(task["id"] for task in cluster.ok("task", "list")))
    little = ["--cores", "0.2"]
    running = cluster.submit(
        *("sh", "-c", TRAINING),
        flags=["--name", "train-resnet", "--gpus", "2", "--memory", "2G", "--tag", "vision", *little],
    )
    cluster.submit(
        *("sh", "-c", "sleep 300"), flags=["--name", "notebook", "--gpus", "1", "--memory", "1G", *little]
    )
    sweep = ["--sweep", "--max-running", "2", "--gpus", "1", "--time-limit", "2h", *little]
    command = "sleep 300 # lr span:[0.1,0.01] seed span:{1..3}"
    cluster.ok("task", "submit", *sweep, "--", "sh", "-c", command)
    cluster.submit(
        "torchrun", "finetune.py", flags=["--name", "llm", "--gpus", "5", "--priority", "5", *little]
    )
    cluster.submit("make", "report", flags=["--hold", *little])
    driver.say(*BUSY)
    until(lambda: len(cluster.log(running).splitlines()) > 25, "a log to look at", seconds=60)
    until(lambda: cluster.ok("nodes")[0]["gpus"][7]["lost"], "a look at the GPUs", seconds=60)


def environments(cluster: Cluster, engine: docker.DockerClient) -> None:
    """Two of them: one that was packed twice, one that was just made."""
    engine.images.get(images.busybox(engine)).tag(IMAGE)
    for name in ENVIRONMENTS:
        cluster.ok("env", "create", name, IMAGE)
    for note in ("python 3.13, torch 2.9", "and flash-attn"):
        line = (
            f"echo '{note}' >> /root/built && dd if=/dev/urandom of=/root/wheels bs=1M count=24 2>/dev/null"
        )
        assert cluster.cli("env", "exec", ENVIRONMENTS[0], "--", "sh", "-c", line).code == 0
        cluster.ok("env", "pack", ENVIRONMENTS[0], "-m", note)


def no_environments(cluster: Cluster, engine: docker.DockerClient) -> None:
    """Nothing stays on the engine."""
    for name in ENVIRONMENTS:
        cluster.cli("env", "delete", name)
        for image in engine.images.list(name=f"hakuriver/{name}"):
            for tag in image.tags:
                engine.images.remove(tag)
    engine.images.remove(IMAGE)


def typed(text: str) -> list[str]:
    """The keys of a text."""
    return [_character_to_key(character) for character in text]


LINE = typed("python train.py --lr=span:[0.1,0.01] --seed=span:{1..5}")
SUBMIT = [
    "n",
    *LINE,
    "tab",
    "tab",
    "down",
    "right",
    "right",
    "right",
    "right",
    "right",
    "space",
    "right",
    "right",
    "space",
]


async def shoot(cluster: Cluster) -> None:
    for name, size, keys in (
        ("overview", (160, 48), ["slash", *typed("train-resnet"), "enter", "escape"]),
        ("overview-80x24", (80, 24), []),
        ("tasks", (160, 48), ["3"]),
        ("nodes", (120, 30), ["2"]),
        ("gpus", (120, 30), ["2", "right_square_bracket"]),
        ("why", (120, 30), ["3", "slash", *typed("llm"), "enter", "enter"]),
        ("submit", (140, 44), SUBMIT),
        ("submit-80x24", (80, 24), SUBMIT),
        ("help", (120, 40), ["question_mark"]),
        ("environments", (140, 40), ["4", "slash", *typed("torch"), "enter", "s"]),
        ("environment", (120, 30), ["4", "slash", *typed("torch"), "enter", "enter"]),
    ):
        app = HakuRiverApp(local(cluster.folder))
        async with app.run_test(size=size) as pilot:
            await live(app, pilot)
            await pilot.press(*keys)
            await settle(pilot)
            if "s" in keys[-1:]:
                await pilot.press(*typed("cat /root/built; stty size"), "enter")
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
        driver = FakeDriver(build(Path(folder) / "driver"), Path(folder) / "gpus")
        driver.say(*GPUS)
        cluster = Cluster(Path(folder) / "lab", driver.environ)
        cluster.up()
        engine = docker.from_env(timeout=60)
        try:
            with contextlib.chdir(folder):  # where tasks run is a fact that is shown
                work(cluster, driver)
            environments(cluster, engine)
            asyncio.run(shoot(cluster))
        finally:
            no_environments(cluster, engine)
            cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
