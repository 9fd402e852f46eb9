"""Backups: whole, never over another file, and a restore after which nothing is told to a stranger."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from daemons.host.backup import UNKNOWN_GAP, Restored, backup
from daemons.host.main import restore_backup, write_backup
from hakuriver import statedir
from hakuriver.cli.main import main
from hakuriver.errors import ConfigError, Conflict
from tests.api.conftest import Running, running_host
from tests.api.peer import Peer, eventually

SCHEMAS = Path(__file__).parent.parent / "fixtures" / "schemas"
"""A database of every released schema."""


def layout(state: Path) -> statedir.Layout:
    return statedir.layout(state)


def restored(state: Path, file: Path) -> Restored:
    return restore_backup(layout(state), file)


async def moved(api: Running, peer: Peer) -> Peer:
    """The same runner, as a host sees it that was started anew."""
    found = await api.peer(peer.name, register=False)
    found.runner, found.version, found.ended = peer.runner, peer.version, peer.ended
    return found


async def test_a_backup_of_a_running_host_is_whole_and_goes_over_nothing(tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    async with running_host(state) as api:
        made = [(await api.submit("true", str(each)))["id"] for each in range(5)]
        busy = [asyncio.create_task(api.submit("true")) for _ in range(50)]
        await asyncio.to_thread(write_backup, layout(state), file)
        await asyncio.gather(*busy)
        with pytest.raises(Conflict, match="exists already"):
            write_backup(layout(state), file)
        with pytest.raises(Conflict, match="another host"):
            restored(state, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("copy")] == ["copy"]
    copy = sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)
    stored = {row[0] for row in copy.execute("SELECT id FROM task")}
    copy.close()
    assert set(made) <= stored


async def test_after_a_restore_nodes_speak_first_and_no_id_comes_twice(tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    async with running_host(state) as api:
        peer = await api.peer("n1")
        first = await api.running_on(peer, "true")
        epoch = api.host.store.identity.epoch
        write_backup(layout(state), file)
        second = await api.submit("later")
        cursor = api.host.hub.cursor
    done = restored(state, file)
    assert done.epoch > epoch
    assert done.replaced is not None
    async with running_host(state) as api:
        again = await moved(api, peer)
        assert [each["id"] for each in (await api.tasks())["items"]] == [first["id"]]
        assert (await api.task(first["id"]))["reason"] == "n1 is offline"
        killed = await api.tell(first["id"], "kill")
        waiting = await api.submit("third")
        assert waiting["id"] > second["id"], "the old database still knew"
        async with api.watch(since=cursor) as watcher:
            assert (await watcher.next())["type"] == "snapshot", "cursors of another epoch mean nothing"
        assert killed["state"] == "stopping"
        assert (await again.heartbeat([]))["introduce"] is True
        assert again.puts == [] == again.intents
        answer = await again.register(high_water=500)
        assert answer["epoch"] == done.epoch
        await again.heartbeat([(first["id"], 1)])
        await again.wait(lambda: again.intents)
        assert (await api.submit("fourth"))["id"] == 501
        await eventually(lambda: (waiting["id"], 1) in again.orders)
        assert again.orders[waiting["id"], 1].epoch == done.epoch
    with running_replaced(done) as old:
        assert {row[0] for row in old.execute("SELECT id FROM task")} == {first["id"], second["id"]}


def running_replaced(done: Restored) -> sqlite3.Connection:
    assert done.replaced is not None
    return sqlite3.connect(done.replaced)


async def test_a_journal_from_nowhere_is_not_believed(api: Running) -> None:
    peer = await api.peer("n1", register=False)
    with pytest.raises(Conflict, match="can't be"):
        await peer.register(high_water=2**62)
    await peer.register(high_water=41)
    await peer.register(high_water=7)
    assert (await api.submit("true"))["id"] == 42


async def test_a_lost_or_broken_database_is_no_obstacle(tmp_path: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    async with running_host(state) as api:
        made = (await api.submit("true"))["id"]
    write_backup(layout(state), file)
    layout(state).database.write_bytes(b"broken" * 10_000)
    first = restored(state, file)
    assert first.replaced is not None
    assert first.replaced.read_bytes().startswith(b"broken")
    layout(state).database.unlink()
    assert restored(state, file).replaced is None
    async with running_host(state) as api:
        assert (await api.submit("true"))["id"] == made + UNKNOWN_GAP + 1


async def test_what_is_no_backup_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with running_host(state) as api:
        made = (await api.submit("true"))["id"]
    good, file = tmp_path / "good", tmp_path / "bad"
    write_backup(layout(state), good)
    before = layout(state).database.read_bytes()
    with pytest.raises(ConfigError, match="there is no file"):
        restored(state, tmp_path / "nothing")
    for content in (b"", b"garbage" * 1000, good.read_bytes()[: good.stat().st_size // 2]):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="bad"):
            restored(state, file)
    newer = sqlite3.connect(good)
    with newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()
    with pytest.raises(ConfigError, match=r"good was written by a newer HakuRiver"):
        restored(state, good)
    assert layout(state).database.read_bytes() == before
    assert [each.name for each in layout(state).host.iterdir() if ".part" in each.name] == []
    async with running_host(state) as api:
        assert (await api.task(made))["state"] == "pending"


@pytest.mark.parametrize("dump", sorted(SCHEMAS.iterdir()), ids=lambda dump: dump.stem)
async def test_a_backup_of_an_older_version_is_brought_up_to_date(tmp_path: Path, dump: Path) -> None:
    state, file = tmp_path / "state", tmp_path / "old"
    old = sqlite3.connect(file)
    old.executescript(dump.read_text("utf-8"))
    old.close()
    assert restored(state, file).replaced is None
    async with running_host(state) as api:
        assert (await api.task(2))["reason"].startswith("n1 is offline")
        assert (await api.submit("true"))["id"] == 3 + UNKNOWN_GAP + 1


async def test_backups_where_they_cant_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database"):
        backup(tmp_path / "none.db", tmp_path / "copy")
    async with running_host(tmp_path / "state"):
        pass
    with pytest.raises(ConfigError, match="can't be made"):
        write_backup(layout(tmp_path / "state"), tmp_path / "no" / "folder")


@pytest.mark.parametrize("cut", [signal.SIGKILL, None], ids=["killed", "another one at work"])
async def test_nothing_stays_of_a_copy_that_was_cut_short(tmp_path: Path, cut: signal.Signals | None) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    async with running_host(state):
        pass
    stuck = (
        "import sys, time; from pathlib import Path; from daemons.host import backup\n"
        "backup._sync = lambda path: (print('stuck', flush=True), time.sleep(60))\n"
        "backup.backup(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    command = (sys.executable, "-c", stuck, str(layout(state).database), str(file))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        if cut is not None:
            process.send_signal(cut)
            process.wait()
        (tmp_path / "copy.notes.part").write_text("somebody's own")
        write_backup(layout(state), file)
        process.kill()
    parts = sorted(each.name for each in tmp_path.glob("copy*"))
    others = [] if cut is not None else [f"copy.{process.pid}.part"]
    assert parts == ["copy", *others, "copy.notes.part"]


async def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, file = tmp_path / "state", tmp_path / "copy"
    environ = {"HOME": str(tmp_path), "HAKURIVER_CONFIG": "/dev/null"}
    async with running_host(state):
        assert main(["host", "--state-dir", str(state), "--backup", str(file)], environ) == 0
        assert main(["host", "--state-dir", str(state), "--restore", str(file)], environ) == 6
    assert main(["host", "--state-dir", str(state), "--backup", str(file)], environ) == 6
    capsys.readouterr()
    assert main(["--json", "host", "--state-dir", str(state), "--restore", str(file)], environ) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["epoch"] > 1
    assert Path(answer["replaced"]).exists()
    assert main(["host", "--state-dir", str(state), "--backup", "a", "--restore", "b"], environ) == 2
