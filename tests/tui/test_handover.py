"""The whole terminal for another program: which one, and on whose behalf."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hakuriver import statedir
from hakuriver.endpoint import Endpoint, resolve
from tests.tui.peer import node, peer
from tests.tui.peer_environments import environment
from tests.tui.test_terminal import program
from tests.tui.use import until
from tui.handover import cli


def test_our_command_line_talks_to_the_cluster_on_the_screen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAKURIVER_HOST", "http://another:1")
    monkeypatch.setenv("HAKURIVER_TOKEN", "another")
    argv, env = cli(Endpoint("http://127.0.0.1:9", "secret-secret-secret"), "env", "shell", "torch")
    assert argv == [sys.executable, "-m", "hakuriver", "env", "shell", "torch"]
    assert resolve(environ=env) == Endpoint("http://127.0.0.1:9", "secret-secret-secret")
    assert "PATH" in env and not any("secret" in word for word in argv), "arguments can be read by others"
    layout = statedir.layout(tmp_path)
    _, env = cli(Endpoint("http://127.0.0.1:9", "secret-secret-secret", layout), "env")
    assert env["HAKURIVER_STATE_DIR"] == str(tmp_path)
    assert not {"HAKURIVER_HOST", "HAKURIVER_TOKEN"} & env.keys()


async def test_what_fails_at_once_can_be_read_and_the_screen_comes_back() -> None:
    async with peer() as host:
        host.put(node("n1"), environment("torch"))
        async with program(host) as used:
            await used.sees("● live")
            used.type(b"4")
            await used.sees("Environments 1")
            host.refuse_shell = True
            used.type(b"S")
            await used.sees("enter goes back")
            used.type(b"\r")
            # what stood there before can still be seen: wait for the second screen, and all of it
            await until(lambda: b"quit" in b"".join(used.written.split(b"\x1b[?1049h")[2:]), 15)
            await used.sees("Environments 1")
            assert "HakuRiver" in used.lines[0] and "q quit" in used.lines[-1]
            used.type(b"\x11")
            assert await used.left() == 0
