import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hakuriver import endpoint, statedir
from hakuriver.api import Client, address
from hakuriver.errors import ConfigError, NotAllowed, Unreachable, UsageError

_STRANGER = """
import os, socket, sys
os.setuid(65534)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def cluster(folder: Path, url: str) -> statedir.Layout:
    layout = statedir.layout(folder)
    statedir.ensure_token(layout.user_token)
    layout.cluster_file.write_text(json.dumps({"host": {"url": url, "pid": 1}}))
    return layout


def test_flags_beat_variables_beat_the_default(tmp_path: Path) -> None:
    one = cluster(tmp_path / "one", "http://127.0.0.1:1")
    two = cluster(tmp_path / "two", "http://127.0.0.1:2")
    three = cluster(tmp_path / "home/.local/state/hakuriver", "http://127.0.0.1:3")
    environ = {
        "HAKURIVER_STATE_DIR": str(tmp_path / "two"),
        "XDG_STATE_HOME": str(tmp_path / "home/.local/state"),
    }
    environ["HAKURIVER_CONFIG"] = str(tmp_path / "config.toml")
    (tmp_path / "config.toml").touch()
    assert endpoint.resolve(state_dir=str(tmp_path / "one"), environ=environ).url == "http://127.0.0.1:1"
    assert endpoint.resolve(environ=environ).state == two
    named = endpoint.resolve(environ=environ | {"HAKURIVER_HOST": "http://h:9", "HAKURIVER_TOKEN": "t" * 20})
    assert (named.url, named.token, named.state) == ("http://h:9", "t" * 20, None)
    flag = endpoint.resolve(host="http://f:9", token_file=str(one.user_token), environ=environ)
    assert flag.token == statedir.read_token(one.user_token)
    del environ["HAKURIVER_STATE_DIR"]
    assert endpoint.resolve(environ=environ).state == three
    (tmp_path / "config.toml").write_text(
        f"[network]\nhost_reachable_address='10.0.0.1'\n[paths]\ncredentials_dir='{one.credentials}'\n"
    )
    assert endpoint.resolve(environ=environ).url == "http://10.0.0.1:8000"


def test_no_cluster_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(endpoint.NoCluster) as caught:
        endpoint.resolve(state_dir=str(tmp_path))
    assert caught.value.exit_code == 5
    assert "hakuriver up" in caught.value.hint


def test_bad_combinations(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        endpoint.resolve(host="http://x", state_dir="y")
    with pytest.raises(UsageError, match="goes with"):
        endpoint.resolve(token_file="x")
    for junk in ("a\nb", "ü", "a\r"):
        with pytest.raises(UsageError, match="holds no token"):
            endpoint.resolve(host="http://x", environ={"HAKURIVER_TOKEN": junk})
    with pytest.raises(UsageError, match="without a credential"):
        endpoint.resolve(host="http://x", environ={})
    layout = cluster(tmp_path, "http://127.0.0.1:1")
    for junk in ("{", "[]", '{"host": 5}', "\0"):
        layout.cluster_file.write_text(junk)
        with pytest.raises(ConfigError, match="not what a supervisor writes"):
            endpoint.resolve(state_dir=str(tmp_path))


@pytest.mark.parametrize(
    "url", ["", "host", "ftp://x", "http://a b:1", "http://", "http://x:port", "http://x:"]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="can't be understood"):
        Client(url, "token")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_a_token_is_not_sent_to_another_users_program(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        url = f"http://127.0.0.1:{ours.getsockname()[1]}"
        cluster(tmp_path / "ours", url)
        assert endpoint.local(tmp_path / "ours").url == url
    with subprocess.Popen(
        [sys.executable, "-c", _STRANGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as theirs:
        assert theirs.stdout
        assert theirs.stdin
        cluster(tmp_path / "theirs", f"http://127.0.0.1:{theirs.stdout.readline().strip()}")
        with pytest.raises(NotAllowed, match="another user"):
            endpoint.local(tmp_path / "theirs")
        theirs.stdin.close()


def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="connection refused"):
        Client("http://127.0.0.1:1", "token").request("GET", "/api/cluster")


def test_addresses_are_quoted() -> None:
    assert address("/api/nodes/a b", {"q": "x&y", "n": None, "m": 0}) == "/api/nodes/a%20b?q=x%26y&m=0"
