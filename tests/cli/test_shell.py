"""``env shell`` and ``env exec`` as people use them: a real cluster, a real terminal, real signals."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli.rawmode import Escape, Modes
from tests.e2e.cluster import HAKURIVER, Cluster
from tests.e2e.test_tui import Tmux, terminal
from tests.waiting import until

ENV = "cli-shell"


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient, busybox: str
) -> Iterator[Cluster]:
    """A cluster with an environment whose container runs."""
    found = Cluster(tmp_path_factory.mktemp("shell") / "state")
    found.up()
    try:
        until(lambda: found.cli("env", "create", ENV, busybox).code == 0, "the engine is found")
        yield found
    finally:
        found.cli("env", "delete", ENV)
        found.down()


@pytest.fixture
def use(host: Cluster, tmp_path: Path) -> Iterator[Tmux]:
    """A terminal in which ``env shell`` was started."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux")
    with terminal(tmp_path, host.env()) as made:
        made.write(f"PS1='here> '; before={tmp_path}/before; stty -g > $before\n")
        made.sees("here>")
        _shell(host, made)
        made.sees("/ #")
        yield made


def _shell(host: Cluster, use: Tmux, *more: str) -> None:
    words = shlex.join([HAKURIVER, "--state-dir", str(host.folder), "env", "shell", ENV, *more])
    use.write(f"clear; {words}; echo left with $?\n")


def _processes(engine: docker.DockerClient) -> str:
    (container,) = engine.containers.list(filters={"label": f"hakuriver.environment={ENV}"})
    rows = container.top(ps_args="-eo pid,args")["Processes"]
    return "\n".join(" ".join(row[1:]) for row in rows)


def _restored(use: Tmux) -> None:
    """The terminal is as it was before."""
    use.write('clear; [ "$(stty -g)" = "$(cat $before)" ] && echo as it was || stty -a\n')
    use.sees("as it was")


def test_a_session_at_the_terminal(use: Tmux, engine: docker.DockerClient) -> None:
    use.write("stty size\n")
    use.sees("48 160")
    use.tmux("resize-window", "-x", "90", "-y", "30")
    use.write("clear; stty size\n")
    use.sees("30 90")
    use.write("sleep 1000\n")
    until(lambda: "sleep 1000" in _processes(engine), "it runs")
    use.type("C-c")
    use.write("echo code $?\n")
    use.sees("code 130")
    use.write("vi /tmp/letter\n")
    use.sees("- /tmp/letter")
    use.write("ischön: 界 🙂")
    use.type("Escape")
    use.sees("- /tmp/letter [Modified]")
    use.write(":wq\n")
    use.sees("/ #")
    use.write("clear; sed 's/sch/un&/' /tmp/letter; rm /tmp/letter\n")
    use.sees("unschön: 界 🙂")
    use.write("top\n")
    use.sees("Mem:", "Load average")
    use.write("q")
    use.write("clear; seq 1 20000 | md5sum; exit 9\n")
    use.sees(_md5("".join(f"{number}\n" for number in range(1, 20001))), "left with 9")
    _restored(use)


def _md5(text: str) -> str:
    done = subprocess.run(["md5sum"], input=text.encode(), capture_output=True, check=True)
    return done.stdout.decode().split()[0]


def test_leaving_without_the_program_s_leave(use: Tmux, engine: docker.DockerClient) -> None:
    use.write("printf '\\033[?1049h\\033[?25l'; sleep 7777\n")
    until(lambda: use.tmux("display-message", "-p", "#{alternate_on}").strip() == "1", "a screen of its own")
    use.type("Enter")
    use.write("~.")
    use.sees("left with 130")
    assert use.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").split() == ["0", "1"]
    _restored(use)
    until(lambda: "sleep 7777" not in _processes(engine), "it was hung up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_client_that_is_told_to_end(use: Tmux, engine: docker.DockerClient, number: signal.Signals) -> None:
    use.write("sleep 6666\n")
    until(lambda: "sleep 6666" in _processes(engine), "it runs")
    os.kill(_client(use), number)
    use.sees(f"left with {128 + number}")
    _restored(use)
    until(lambda: "sleep 6666" not in _processes(engine), "it was hung up")


def _client(use: Tmux) -> int:
    """The pid of the client in this terminal."""
    shell = int(use.tmux("display-message", "-p", "#{pane_pid}"))
    (pid,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(pid)


def test_the_host_is_killed_and_the_shell_says_so(
    host: Cluster, use: Tmux, engine: docker.DockerClient
) -> None:
    use.write("sleep 5555\n")
    until(lambda: "sleep 5555" in _processes(engine), "it runs")
    host.kill9("host")
    use.sees("the session is over", "left with 5")
    _restored(use)
    until(lambda: "sleep 5555" not in _processes(engine), "what it left was hung up")


def test_a_stopped_container_is_started_first(host: Cluster, use: Tmux) -> None:
    assert host.cli("env", "stop", ENV).code == 0
    use.sees("left with 137")
    _shell(host, use, "--user", "user", "--workdir", "/tmp")
    use.sees(f"starting the container of environment {ENV}", "~ $")
    use.write("id -un; pwd; exit\n")
    use.sees("user\n/tmp\n", "left with 0")


def test_exec_passes_code_streams_and_input(host: Cluster) -> None:
    done = host.cli("env", "exec", ENV, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, b"out\n", "err\n")
    data = secrets.token_bytes(400_000)
    done = host.cli("env", "exec", "-i", ENV, "--", "cat", stdin=data)
    assert (done.code, done.out == data, done.err) == (0, True, "")
    assert host.cli("env", "exec", ENV, "--", "cat", stdin=data).out == b"", "no input without -i"
    assert host.cli("env", "exec", "--user", "user", "--workdir", "/tmp", ENV, "--", "pwd").out == b"/tmp\n"
    assert host.cli("env", "exec", "-t", ENV, "--", "tty").out == b"/dev/pts/0\r\n"
    assert host.cli("env", "exec", ENV, "--", "no-such-program").code == 127


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["env", "exec", ENV], 2, "needs a command"),
        (["env", "exec", "nothing-here", "--", "id"], 3, "no environment nothing-here"),
        (["env", "exec", "../x", "--", "id"], 2, "can't name an environment"),
        (["env", "exec", "--user", "nobody-there", ENV, "--", "id"], 3, "no user nobody-there"),
        (["env", "exec", "--workdir", "tmp", ENV, "--", "id"], 2, "absolute"),
        (["env", "shell", ENV], 2, "needs a terminal"),
    ],
)
def test_refusals_are_one_line(host: Cluster, arguments: list[str], code: int, text: str) -> None:
    done = host.cli(*arguments)
    assert (done.code, done.out) == (code, b"")
    assert text in done.err.splitlines()[0]
    assert "Traceback" not in done.err


def test_ctrl_c_is_the_commands_and_twice_leaves(host: Cluster, engine: docker.DockerClient) -> None:
    polite = host.start(
        "env", "exec", ENV, "--", "sh", "-c", "trap 'echo bye; exit 3' INT; echo up; sleep 99 & wait"
    )
    assert polite.stdout is not None
    assert polite.stdout.readline() == b"up\n"
    polite.send_signal(signal.SIGINT)
    assert (polite.communicate(timeout=30)[0], polite.returncode) == (b"bye\n", 3)
    deaf = host.start("env", "exec", ENV, "--", "sh", "-c", "trap '' INT; echo up; sleep 4321")
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == b"up\n"
    deaf.send_signal(signal.SIGINT)
    until(lambda: "kill" not in _processes(engine), "the signal is there")
    deaf.send_signal(signal.SIGINT)
    deaf.communicate(timeout=30)
    assert deaf.returncode == 130
    until(lambda: "sleep 4321" not in _processes(engine), "it was hung up")


def test_nobody_reads_the_output(host: Cluster, engine: docker.DockerClient) -> None:
    command = shlex.join(
        [HAKURIVER, "--state-dir", str(host.folder), "env", "exec", ENV, "--", "yes", "to all"]
    )
    script = f"{command} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=host.env(), timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"to all\n", b"", 141)
    until(lambda: "yes to all" not in _processes(engine), "it was hung up")


def test_leaving_by_keys() -> None:
    assert Escape().feed(b"~.") == (b"", True)
    assert Escape().feed(b"ls\r~.") == (b"ls\r", True)
    assert Escape().feed(b"ls ~.") == (b"ls ~.", False)
    assert Escape().feed(b"~~.") == (b"~.", False)
    assert Escape().feed(b"~/bin\r") == (b"~/bin\r", False)
    escape = Escape()
    assert [escape.feed(key) for key in (b"~", b".")] == [(b"", False), (b"", True)]


@given(
    st.lists(st.sampled_from([b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25l", b"\x1b[?25h", b"x\x1b[31m"])),
    st.data(),
)
def test_modes_are_known_however_they_are_cut(said: list[bytes], data: st.DataObject) -> None:
    whole, modes = b"".join(said), Modes()
    while whole:
        cut = data.draw(st.integers(1, len(whole)))
        modes.see(whole[:cut])
        whole = whole[cut:]
    screen = [each for each in said if b"1049" in each][-1:] == [b"\x1b[?1049h"]
    hidden = [each for each in said if b"?25" in each][-1:] == [b"\x1b[?25l"]
    assert modes.full_screen is screen
    undone = modes.undo()
    assert (b"\x1b[?1049l" in undone, b"\x1b[?25h" in undone) == (screen, hidden)
    assert bool(undone) is (screen or hidden)
