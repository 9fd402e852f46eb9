"""Bad input and bad surroundings: one clear line, the right exit code, no traceback, nothing half done."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster import HAKURIVER, Cluster, Result
from tests.waiting import until


def clear(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result
    assert "Traceback" not in result.err
    assert 1 <= len(result.err.strip().splitlines()) <= 2, "one line, and perhaps what to do"
    for word in words:
        assert word in result.err, result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["task", "submit", "--target", "nowhere", "--", "true"], 3, ["nowhere"]),
        (["task", "submit", "--target", "n:x", "--", "true"], 2, ["n:x"]),
        (["task", "submit", "--target", "NODE::0,0", "--", "true"], 2, ["GPU 0 twice"]),
        (["task", "submit", "--target", "NODE:9", "--", "true"], 7, ["NUMA"]),
        (["task", "submit", "--target", "NODE::7", "--", "true"], 7, ["GPU"]),
        (["task", "submit", "--cores", "99", "--", "true"], 7, ["99"]),
        (["task", "submit", "--memory", "9000T", "--", "true"], 7, ["memory"]),
        (["task", "submit", "--memory", "1X", "--", "true"], 2, ["1X"]),
        (["task", "submit", "--cores", "many", "--", "true"], 2, ["many"]),
        (["task", "submit", "--env", "1=2", "--", "true"], 2, ["1"]),
        (["task", "submit", "--mount", "data", "--image", "x", "--", "true"], 2, ["data"]),
        (["task", "submit", "--frobnicate", "--", "true"], 2, ["--frobnicate"]),
        (["task", "submit"], 2, ["command"]),
        (["tsak"], 2, ["task"]),
        (["task", "show", "999999"], 3, ["999999"]),
        (["task", "show", "no-such-name"], 3, ["no-such-name"]),
        (["task", "kill", "999999"], 3, ["999999"]),
        (["task", "logs", "999999"], 3, ["999999"]),
        (["node", "show", "nowhere"], 3, ["nowhere"]),
    ],
)
def test_what_is_typed_wrong(cluster: Cluster, arguments: list[str], code: int, words: list[str]) -> None:
    (node,) = cluster.ok("nodes")
    filled = [argument.replace("NODE", node["name"]) for argument in arguments]
    clear(cluster.cli(*filled), code, *words)
    under_json = cluster.cli("--json", *filled)
    assert under_json.code == code
    assert set(json.loads(under_json.err)["error"]) == {"code", "message", "hint"}


def test_good_targets_are_submitted_beside_wrong_ones(cluster: Cluster) -> None:
    (node,) = cluster.ok("nodes")
    result = cluster.cli(
        "--json",
        "task",
        "submit",
        "--target",
        node["name"],
        "--target",
        "nowhere",
        "--target",
        node["name"],
        "--",
        "true",
    )
    assert result.code == 1
    assert "nowhere" in result.err
    tasks = result.json
    assert len(tasks) == 2
    assert {task["batch"] for task in tasks} == {tasks[0]["id"]}


def test_no_host(tmp_path: Path) -> None:
    nothing = Cluster(tmp_path / "nothing")
    for arguments in (["task", "list"], ["status"], ["nodes"], ["task", "submit", "--", "true"]):
        clear(nothing.cli(*arguments), 5, "hakuriver up")
    assert nothing.cli().code == 5, "the TUI never starts daemons"


def test_a_host_that_is_down(own_cluster: Cluster) -> None:
    own_cluster.down(kill=False)
    clear(own_cluster.cli("task", "list"), 5, "hakuriver up")
    own_cluster.up()


def test_an_unknown_config_key(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[network]\nhost_prot = 1\n")
    cluster = Cluster(tmp_path / "state", {"HAKURIVER_CONFIG": str(config)})
    clear(cluster.cli("up", "--headless"), 2, "host_prot", "host_port")
    clear(cluster.cli("config", "show"), 2, "host_prot", "host_port")


def test_a_port_in_use(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        clear(cluster.cli("up", "--headless", "--port", port), 6, port)
        clear(cluster.cli("host", "--port", port), 6, port)


def test_mounts_and_privileges_outside_the_policy(own_cluster: Cluster, busybox: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc")
    for flags in (["--mount", "/etc:/x"], ["--mount", f"{link}:/x"], ["--privileged"]):
        task = own_cluster.submit("true", flags=["--image", busybox, *flags])
        (ended,) = own_cluster.wait(task)
        assert ended["state"] == "failed"
        assert "policy" in ended["error"], ended


def test_an_image_that_is_missing(cluster: Cluster, busybox: str) -> None:
    task = cluster.submit("true", flags=["--image", "no-such-image:1"])
    (ended,) = cluster.wait(task)
    assert ended["state"] == "failed"
    assert "no-such-image:1" in ended["error"]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem: needs root")


@needs_root
def test_a_full_disk_on_submit(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", str(folder)], check=True)
    cluster = Cluster(folder / "state")
    try:
        cluster.up()
        kept = cluster.submit("true")
        cluster.wait(kept)
        hog = folder / "hog"
        with hog.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        refused = until(
            lambda: (
                result
                if (result := cluster.cli("task", "submit", "--", "true", *["x" * 100_000] * 4)).code
                else None
            ),
            "a submit that does not fit",
        )
        clear(refused, 1, "full")
        before = [task["id"] for task in cluster.ok("task", "list", "-n", "1000")]
        hog.unlink()
        after = until(
            lambda: (
                json.loads(result.out)
                if (result := cluster.cli("--json", "task", "submit", "--", "true")).code == 0
                else None
            ),
            "it heals when there is room",
        )
        assert after[0]["id"] > max(before)
        cluster.wait(after[0]["id"])
        cluster.down()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def network_filesystem(source: Path, point: Path) -> Iterator[None]:
    """A real sshfs mount over a socket pair, without an ssh server."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen(
            ["/usr/lib/openssh/sftp-server"], stdin=ours.fileno(), stdout=ours.fileno()
        ) as server,
        subprocess.Popen(
            ["sshfs", "-f", "-o", "passive", f"host:{source}", str(point)],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
        ),
    ):
        until(lambda: str(point) in Path("/proc/self/mountinfo").read_text(), "mounted")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(point)], check=True)
            server.terminate()


@needs_root
def test_a_state_folder_on_a_network_filesystem(tmp_path: Path) -> None:
    source, point = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    point.mkdir()
    with network_filesystem(source, point):
        for arguments in (["host"], ["runner"]):
            done = subprocess.run(
                [HAKURIVER, "--state-dir", str(point / "state"), *arguments],
                capture_output=True,
                env=Cluster(tmp_path / "x").env(),
                timeout=30,
                check=False,
            )
            clear(
                Result(done.returncode, done.stdout, done.stderr.decode()),
                2,
                "network filesystem",
                "--state-dir",
            )
