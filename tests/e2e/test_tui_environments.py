"""An environment from an image to a task and back a version: keys in a real terminal, a real engine."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.cluster import HAKURIVER, Cluster
from tests.e2e.test_tui import Tmux, terminal
from tests.waiting import until

pytestmark = pytest.mark.docker


@pytest.fixture
def name(own_cluster: Cluster, engine: docker.DockerClient) -> Iterator[str]:
    """Of an environment that is gone after the test, with the images of its versions."""
    made = f"tui-{uuid.uuid4().hex[:8]}"
    yield made
    own_cluster.cli("env", "delete", made)
    for image in engine.images.list(name=f"hakuriver/{made}"):
        for tag in image.tags:
            engine.images.remove(tag)


@pytest.fixture
def shell(own_cluster: Cluster, tmp_path: Path) -> Iterator[Tmux]:
    with terminal(tmp_path, own_cluster.env()) as made:
        yield made


def line(use: Tmux, text: str) -> None:
    """Text, and the enter key."""
    use.write(text)
    use.type("Enter")


def packed(cluster: Cluster, use: Tmux, name: str, note: str) -> int:
    """Pack it with the keyboard; returns the version."""
    before = {each["version"] for each in cluster.ok("env", "versions", name)}
    use.type("p")
    use.sees("what is new?", "enter done")
    line(use, note)
    until(lambda: len(cluster.ok("env", "versions", name)) > len(before), "another version")
    (made,) = (each for each in cluster.ok("env", "versions", name) if each["version"] not in before)
    assert made["note"] == note and made["current"]
    use.sees(f"packed {name}@{made['version']}", "new tasks get it")
    return int(made["version"])


def output(cluster: Cluster, name: str) -> bytes:
    """What a task in the environment finds there."""
    task = cluster.submit("cat", "/marker", flags=["--container", name])
    (ended,) = cluster.wait(task)
    assert ended["state"] == "completed", ended
    return cluster.log(task)


def test_from_an_image_to_a_task_and_back(own_cluster: Cluster, shell: Tmux, name: str, busybox: str) -> None:
    cluster, use = own_cluster, shell
    line(use, f"{shlex.join([HAKURIVER, '--state-dir', str(cluster.folder)])}; echo left with $?")
    use.sees("● live")
    use.type("4")
    use.sees("Environments", "n new")
    use.type("n")
    use.sees("New environment on")
    use.write(name)
    use.sees(f" {name} ")
    plain = use.colours("Image")
    use.type("Tab")
    until(lambda: use.colours("Image") != plain, "the keyboard in the second field")
    line(use, f"{busybox}")
    use.sees(f"{name}: its container runs", "● running", "never packed")

    use.type("/")
    use.sees("enter done")
    line(use, name)  # a fresh cluster may be making its default environment, too
    use.sees(f"/{name}")
    use.type("s")
    use.sees(f"Shell in {name} connected", "/ #")
    line(use, "echo size $(stty size)")
    until(lambda: any(line.startswith("size ") for line in use.lines), "the size of the shell")
    (rows,) = (int(line.split()[1]) for line in use.lines if line.startswith("size "))
    assert 10 < rows < 46 and any(f"size {rows} 160" in line for line in use.lines)
    line(use, "vi /marker")
    use.sees("~", "/marker")
    use.write("ihello from vi")
    use.sees("I /marker")
    use.type("Escape")
    use.sees("- /marker [Modified]")
    line(use, ":wq")
    until(lambda: "~" not in use.lines, "the shell again")
    line(use, "echo; cat /marker; sleep 99")
    use.sees("\nhello from vi")
    use.type("C-c")
    use.sees("^C")
    use.type("C-]")
    use.sees(f"shells: {name}", "p pack")
    old = packed(cluster, use, name, "the first")
    assert output(cluster, name) == b"hello from vi\n"

    use.type("s")
    use.sees("leaves, it goes on")
    line(use, "echo changed > /marker")
    use.type("C-]")
    use.sees("p pack")
    new = packed(cluster, use, name, "the second")
    assert output(cluster, name) == b"changed\n"

    use.type("Enter")
    use.sees(f"Environment {name}", "Versions 2", "the first", "the second", "● current")
    use.type("G")
    use.type("b")
    use.sees(f"new tasks get {name}@{old}")
    assert output(cluster, name) == b"hello from vi\n" and new > old

    use.type("S")
    until(lambda: any("/ #" in line for line in use.lines) and "HakuRiver" not in use.lines[0], "it alone")
    line(use, "echo size $(stty size)")
    use.sees("\nsize 48 160")
    line(use, "exit")
    use.sees(f"Environment {name}", "Versions 2", "q quit")

    use.type("s")
    use.sees(f"Shell in {name} connected")
    line(use, "exit")
    use.sees(f"the shell in {name} ended")
    use.type("q")
    use.sees("left with 0")
