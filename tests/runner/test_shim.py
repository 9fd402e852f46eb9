"""The fork server by itself: what it is made of, and what it answers without a runner."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemons.runner.forkserver import command
from daemons.runner.keepers import ROOT
from daemons.runner.shim.sockets import PROTOCOL, server_name
from daemons.runner.shim.status import Status, read_status
from daemons.runner.shim.stdin import CAPACITY, Stdin
from tests.runner.peer import eventually

OURS = ("daemons", "daemons.runner", "daemons.runner.shim")
SLOW = {"asyncio", "dataclasses", "inspect", "pathlib", "site", "subprocess", "tempfile"}


@contextmanager
def lines_from(folder: Path) -> Iterator[tuple[socket.socket, Iterator[dict[str, Any]]]]:
    """A connection to the fork server of a folder, and what comes from it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(folder / server_name()))
        with closing(client.makefile("rb")) as reader:
            yield client, (json.loads(line) for line in reader)


def imported(report: str) -> list[str]:
    """The modules that ``-X importtime`` tells of."""
    lines = [line for line in report.splitlines() if line.startswith("import time:")]
    return [line.rpartition("|")[2].strip() for line in lines[1:]]


def test_it_holds_nothing_but_the_standard_library_and_itself(tmp_path: Path) -> None:
    attempt = tmp_path / "attempts" / "1.1"
    (attempt / "io").mkdir(parents=True)
    tmp_path.chmod(0o700)
    order = {"argv": ["/bin/echo", "done"], "env": {}, "cwd": "/", "watch_memory": 2**30}
    (attempt / "order.json").write_text(json.dumps(order))
    python, *rest = command(tmp_path)
    log = tmp_path / "log"
    with log.open("wb") as output:
        subprocess.run([python, "-X", "importtime", *rest], stderr=output, env={}, check=True, timeout=20)
    with lines_from(tmp_path) as (client, lines):
        hello = next(lines)
        try:
            assert hello["hello"] == PROTOCOL
            at_start = imported(log.read_text())
            client.sendall(b'{"op": "start", "name": "1.1"}\n')
            phases = [line["status"]["phase"] for line in lines]
        finally:
            os.kill(hello["pid"], signal.SIGKILL)
    assert (phases[0], phases[-1]) == ("started", "final")
    assert (attempt / "io" / "out").read_text() == "done\n"
    late = imported(log.read_text())[len(at_start) :]
    assert "daemons.runner.shim.server" in at_start
    strangers = {name for name in at_start + late if name.partition(".")[0] not in sys.stdlib_module_names}
    assert [name for name in strangers if name not in OURS and not name.startswith(f"{OURS[-1]}.")] == []
    assert SLOW & set(at_start + late) == set()
    assert not strangers & set(late), "an upgrade may replace our files at any time"


DIES = """
import os, signal, sys
sys.path.append(sys.argv[1])
from daemons.runner.shim.{module} import main
write = os.write
def dying(file, data):
    if data == b"g":
        {moment}
        os.kill(os.getpid(), signal.SIGKILL)
    return write(file, data)
os.write = dying
sys.exit(main(*sys.argv[2:]))
"""
"""Who is killed when it lets the task go that it has forked and recorded."""


@pytest.mark.parametrize("moment", ["pass", "write(file, data)"], ids=["before", "after"])
@pytest.mark.parametrize("keeper", ["unit", "server"])
def test_a_shim_that_is_killed_amid_a_start(tmp_path: Path, keeper: str, moment: str) -> None:
    attempts = tmp_path / "attempts"
    cases = {"1.1": (["sh", "-c", "echo ran; exit 7"], 7, "ran\n"), "2.1": (["no-such-command"], 127, "")}
    for name, (argv, _, _) in cases.items():
        (attempts / name / "io").mkdir(parents=True)
        order = {"argv": argv, "env": {"PATH": os.defpath}, "cwd": "/", "watch_memory": 0}
        (attempts / name / "order.json").write_text(json.dumps(order))
    tmp_path.chmod(0o700)
    words = [sys.executable, "-c", DIES.format(module=keeper, moment=moment), str(ROOT)]
    if keeper == "unit":
        for name in cases:
            subprocess.run([*words, str(attempts), name], check=True, timeout=20)
    else:
        subprocess.run([*words, str(tmp_path)], check=True, timeout=20)
        for name in cases:
            with lines_from(tmp_path) as (client, lines):
                pid = next(lines)["pid"]
                client.sendall(json.dumps({"op": "start", "name": name}).encode() + b"\n")
                assert list(lines) == [], "it dies before it says anything"
    try:
        for name, (_, code, out) in cases.items():
            status = eventually(partial(final, attempts / name), what=f"the end of {name}")
            assert os.waitstatus_to_exitcode(status["raw"]) == code
            assert (attempts / name / "io" / "out").read_text() == out
    finally:
        if keeper == "server":
            os.kill(pid, signal.SIGKILL)


DIES_AT_THE_END = """
import os, signal, sys
sys.path.append(sys.argv[1])
from daemons.runner.shim.{module} import main
store = os.pwrite
def dying(file, data, offset):
    if b'"phase":"exited"' in data:
        try:
            os.close(os.open({once!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return store(file, data, offset)  # the second keeper lives
        {moment}
        os.kill(os.getpid(), signal.SIGKILL)
    return store(file, data, offset)
os.pwrite = dying
sys.exit(main(*sys.argv[2:]))
"""


@pytest.mark.parametrize("moment", ["pass", "store(file, data, offset)"], ids=["before", "after"])
@pytest.mark.parametrize("keeper", ["unit", "server"])
@pytest.mark.parametrize(("last", "code"), [("exit 7", 7), ("kill -SEGV $$", -signal.SIGSEGV)])
def test_a_shim_that_is_killed_while_it_stores_the_end(
    tmp_path: Path, keeper: str, moment: str, last: str, code: int
) -> None:
    attempt = tmp_path / "attempts" / "1.1"
    (attempt / "io").mkdir(parents=True)
    order = {"argv": ["sh", "-c", last], "env": {"PATH": os.defpath}, "cwd": "/", "watch_memory": 0}
    (attempt / "order.json").write_text(json.dumps(order))
    tmp_path.chmod(0o700)
    dies = DIES_AT_THE_END.format(module=keeper, moment=moment, once=str(tmp_path / "once"))
    words = [sys.executable, "-c", dies, str(ROOT)]
    pid = 0
    try:
        if keeper == "unit":
            subprocess.run([*words, str(attempt.parent), "1.1"], check=True, timeout=20)
        else:
            subprocess.run([*words, str(tmp_path)], check=True, timeout=20)
            with lines_from(tmp_path) as (client, lines):
                pid = next(lines)["pid"]
                client.sendall(b'{"op": "start", "name": "1.1"}\n')
                list(lines)
        status = eventually(partial(final, attempt), what="the end")
        assert (tmp_path / "once").exists() and os.waitstatus_to_exitcode(status["raw"]) == code
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)


def final(attempt: Path) -> Status | None:
    folder = os.open(attempt, os.O_RDONLY)
    try:
        status = read_status(folder)
    finally:
        os.close(folder)
    return status if status is not None and status["phase"] == "final" else None


@pytest.fixture
def pipe() -> Iterator[tuple[int, Stdin]]:
    reader, writer = os.pipe()
    found = Stdin(writer)
    yield reader, found
    os.close(reader)


def take(stdin: Stdin, offset: int, text: bytes, *, eof: bool = False) -> dict[str, Any]:
    return stdin.take({"offset": offset, "data": base64.b64encode(text).decode(), "eof": eof})


def test_standard_input_by_offset(pipe: tuple[int, Stdin]) -> None:
    reader, stdin = pipe
    assert take(stdin, 0, b"hello") == {"offset": 5}
    assert take(stdin, 3, b"lo wor") == {"offset": 9}
    assert take(stdin, 0, b"he") == {"offset": 9}
    assert take(stdin, 10, b"x") == {"error": "gap", "offset": 9}
    assert take(stdin, 9, b"ld", eof=True) == {"offset": 11}
    assert take(stdin, 9, b"ld", eof=True) == {"offset": 11}
    assert take(stdin, 11, b"more") == {"offset": 11, "error": "closed"}
    assert os.read(reader, 100) == b"hello world"
    assert os.read(reader, 100) == b""
    for nonsense in ({}, {"offset": 0}, {"offset": "x", "data": ""}, {"offset": 0, "data": "%"}):
        with pytest.raises((KeyError, ValueError)):
            stdin.take(nonsense)


def test_what_does_not_fit_is_asked_for_again(pipe: tuple[int, Stdin]) -> None:
    reader, stdin = pipe
    size = 2 * CAPACITY
    room = take(stdin, 0, bytes(size), eof=True)["offset"]
    assert 0 < room < size
    assert take(stdin, room, bytes(size - room), eof=True) == {"offset": room}
    assert len(os.read(reader, size)) == room
    assert take(stdin, room, bytes(1), eof=True) == {"offset": room + 1}
    assert os.read(reader, 2) == b"\0"
    assert os.read(reader, 2) == b""


def test_input_of_a_task_without_one_or_that_closed_it(pipe: tuple[int, Stdin]) -> None:
    assert take(Stdin(None), 0, b"x") == {"offset": 0, "error": "closed"}
    assert take(Stdin(None), 7, b"x") == {"offset": 0, "error": "closed"}  # it went with the shim
    reader, writer = os.pipe()
    os.close(reader)
    gone = Stdin(writer)
    for _ in range(2):
        assert take(gone, 0, b"x") == {"offset": 0, "error": "closed"}
