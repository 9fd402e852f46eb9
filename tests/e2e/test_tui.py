"""The TUI in a real terminal (tmux) over a real cluster: only keys go in, only the screen is looked at."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import HAKURIVER, Cluster
from tests.waiting import until


@dataclass
class Tmux:
    """A shell in a private tmux server."""

    socket: Path
    environ: dict[str, str]

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *arguments]
        done = subprocess.run(command, capture_output=True, env=self.environ, timeout=20, check=True)
        return done.stdout.decode()

    def type(self, key: str) -> None:
        """One key, by tmux's name for it."""
        self.tmux("send-keys", key)

    def write(self, text: str) -> None:
        """Text as it is."""
        self.tmux("send-keys", "-l", text)

    @property
    def lines(self) -> list[str]:
        return self.tmux("capture-pane", "-p").splitlines()

    def sees(self, *texts: str, seconds: float = 40) -> str:
        """The screen, as soon as all of these texts stand on it."""
        screen = ""

        def all_there() -> bool:
            nonlocal screen
            screen = "\n".join(self.lines)
            return all(text in screen for text in texts)

        try:
            until(all_there, f"{texts} on the screen", seconds=seconds, every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{screen}") from None
        return screen

    def colours(self, text: str) -> list[str]:
        """The colours of the line with this text."""
        found = (line for line in self.tmux("capture-pane", "-p", "-e").splitlines() if text in line)
        return re.findall(r"\x1b\[[0-9;]*m", next(found, ""))


@contextmanager
def terminal(folder: Path, environ: dict[str, str]) -> Iterator[Tmux]:
    made = Tmux(folder / "tmux", environ | {"TERM": "xterm-256color", "LANG": "C.UTF-8"})
    made.tmux("new-session", "-d", "-x", "160", "-y", "48", "sh")
    try:
        yield made
    finally:
        made.tmux("kill-server")


@pytest.fixture
def shell(own_cluster: Cluster, tmp_path: Path) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux")
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\ngrep -c . "$1" | sed "s/^/lines in the pager: /"\nread answer\n')
    pager.chmod(0o755)
    with terminal(tmp_path, own_cluster.env() | {"PAGER": str(pager)}) as made:
        yield made


def test_a_day_at_the_terminal(own_cluster: Cluster, shell: Tmux) -> None:
    cluster, use = own_cluster, shell
    use.write("stty -g > ~/before; PS1='shell> '\n")
    use.write(f"{shlex.join([HAKURIVER, '--state-dir', str(cluster.folder)])}; echo left with $?\n")
    use.sees("● live", "1/1 nodes", "● online", "no task yet: n submits one", "q quit")

    use.type("n")
    use.sees("New task on", "enter submit")
    use.write("sh -c 'echo hello from the form; exec sleep 1000'")
    use.type("Enter")
    use.sees("submitted 1", "● running", "stdout of 1", "hello from the form")
    assert cluster.show(1)["command"] == ["sh", "-c", "echo hello from the form; exec sleep 1000"]

    use.type("x")
    use.sees("Kill 1 task on", "n ▸ cancel ◂ enter")
    use.type("y")
    use.sees("killing 1 in", "u takes it back", "u undo")
    use.type("u")
    use.sees("kill taken back: 1")
    assert (cluster.show(1)["state"], cluster.show(1)["intent_due_at"]) == ("running", None)
    use.type("x")
    use.sees("Kill 1 task on")
    use.type("y")
    use.sees("killing 1 in")

    # meanwhile: what tasks say is only ever text
    second = cluster.submit(
        *("sh", "-c", 'echo "$0$1$2"; sleep 999', "[/oops]", "[@click=app.quit]x[/]"),
        "\x1b]0;evil\x07\x1b[2J \x1b[31mred",
    )
    use.sees("'[/oops]' '[@click=app.quit]x[/]'")
    use.type("g")
    use.sees(f"stdout of {second}", " [/oops][@click=app.quit]x[/] red")
    use.sees("'[/oops]' '[@click=app.quit]x[/]' '␛]0;evil␇␛[2J ␛[31mred'")
    assert "evil" not in use.tmux("display-message", "-p", "#{pane_title}")
    assert use.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    use.sees("✗ killed")
    assert cluster.show(1)["state"] == "killed"

    use.type("l")
    use.sees("o pager")
    use.type("o")
    use.sees("lines in the pager: 1")
    use.type("Enter")
    use.sees("o pager", "[/oops][@click=app.quit]x[/] red")
    use.type("Escape")

    use.sees("● running")
    bright = use.colours("● running")
    supervisor = cluster.pid("supervisor")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(cluster.pid("host"), signal.SIGKILL)
        use.sees("connection lost", "again in", "what you see is from before", "▲ lost", "● running")
        until(lambda: use.colours("● running") != bright, "old data is dimmed")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    use.sees("● live", "1/1 nodes", "● online", seconds=30)
    until(lambda: use.colours("● running") == bright, "bright again")

    use.tmux("resize-window", "-x", "80", "-y", "24")
    until(lambda: len(use.lines) == 24 and "q quit" in use.lines[-1], "a footer at 80x24")
    use.sees("HakuRiver", "● live", "● running", "stdout of")

    use.type("q")
    use.sees("left with 0", "shell>")
    assert use.tmux("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").split() == [
        "0",
        "0",
        "1",
    ]
    use.write("stty -g | cmp - ~/before && echo terminal is as it was\n")
    use.sees("\nterminal is as it was")
