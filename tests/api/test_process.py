"""The daemon as a process: killed without warning, started again, stopped in order."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hakuriver import statedir
from hakuriver.api import Client
from hakuriver.errors import HakuRiverError, Unreachable
from tests.waiting import until

START = """
import json, sys
from pathlib import Path
from daemons.host.main import run
from hakuriver import config, statedir
from hakuriver.errors import HakuRiverError
settings = config.load(environ={"HAKURIVER_CONFIG": "/dev/null"}, flags=json.loads(sys.argv[2]))
try:
    sys.exit(run(settings, statedir.layout(Path(sys.argv[1])), embedded=True, insecure_bind=False))
except HakuRiverError as error:
    print(error.message, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(state: Path, port: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", START, str(state), json.dumps({"network.host_port": port})]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)


@contextmanager
def host(state: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    process = start(state, port)
    try:
        token = statedir.layout(state).user_token

        def answers() -> Client | None:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                client = Client(f"http://127.0.0.1:{port}", statedir.read_token(token))
                client.request("GET", "/api/cluster")
            except HakuRiverError:
                return None
            return client

        found = until(answers, "the host answers")
        assert found is not None
        yield process, found
    finally:
        process.kill()
        process.wait()


def test_no_acknowledged_submission_is_lost_when_the_host_is_killed(tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    port = free_port()
    for round_number in range(3):
        with host(tmp_path, port) as (process, client):
            enough = threading.Event()

            def submit(
                client: Client = client, number: int = round_number, enough: threading.Event = enough
            ) -> None:
                while True:
                    try:
                        answer = client.request("POST", "/api/tasks", body={"command": ["true", str(number)]})
                    except Unreachable:
                        return
                    acknowledged.add(answer["tasks"][0]["id"])
                    if len(acknowledged) > 60 * (number + 1):
                        enough.set()

            threads = [threading.Thread(target=submit) for _ in range(8)]
            for each in threads:
                each.start()
            assert enough.wait(30)
            process.send_signal(signal.SIGKILL)
            for each in threads:
                each.join(20)
    with host(tmp_path, port) as (_, client):
        stored: dict[int, str] = {}
        cursor = None
        while True:
            page = client.request("GET", "/api/tasks", query={"limit": 1000, "cursor": cursor})
            stored |= {each["id"]: each["state"] for each in page["items"]}
            cursor = page["next"]
            if cursor is None:
                break
    assert acknowledged <= set(stored)
    assert set(stored.values()) == {"pending"}


def test_a_stop_is_quick_and_leaves_the_truth(tmp_path: Path) -> None:
    port = free_port()
    with host(tmp_path, port) as (process, client):
        client.request("POST", "/api/tasks", body={"command": ["true"]})
        with client.open("GET", "/api/watch") as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with host(tmp_path, port) as (_, client):
        assert len(client.request("GET", "/api/tasks")["items"]) == 1


def test_a_second_host_is_refused_in_one_line(tmp_path: Path) -> None:
    with host(tmp_path, free_port()) as (first, _):
        second = start(tmp_path, free_port())
        _, errors = second.communicate(timeout=20)
        assert second.returncode == 6
        assert errors.splitlines()[-1].startswith(f"another host (pid {first.pid}) uses")
        assert "Traceback" not in errors


def test_a_broken_database_is_refused_in_one_line(tmp_path: Path) -> None:
    layout = statedir.layout(tmp_path)
    statedir.make_private(layout.host)
    layout.database.write_bytes(b"garbage" * 1000)
    process = start(tmp_path, free_port())
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "can't be used" in errors.splitlines()[-1]
    assert "Traceback" not in errors
