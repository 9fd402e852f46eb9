"""The pure parts."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from daemons.runner import cgroups, logs
from daemons.runner.cpus import pick_cpus
from daemons.runner.model import End, Wish, judge
from daemons.runner.probes import numa, system
from daemons.runner.shim.status import BLOCK, decode_status, encode_status
from hakuriver.lifecycle import Intent, State

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=500)


@given(st.dictionaries(st.sampled_from(["error", "phase", "boot"]), text, max_size=1), st.integers())
def test_a_status_survives_its_block(strings: dict[str, str], number: int) -> None:
    status = {**strings, "raw": number}
    block = encode_status(status)
    assert len(block) == BLOCK
    assert decode_status(block) == status


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_damaged_status_is_none_or_unchanged(position: int, flip: int) -> None:
    status = {"phase": "started", "pid": 1234, "start": 5678}
    block = bytearray(encode_status(status))
    block[position] ^= flip
    assert decode_status(bytes(block)) in (None, status)


def test_anything_else_is_no_status() -> None:
    for block in (b"", bytes(BLOCK), b"x" * BLOCK, encode_status({})[:-1]):
        assert decode_status(block) is None


@given(
    st.integers(0, 20),
    st.sets(st.integers(0, 15), min_size=1),
    st.dictionaries(st.integers(0, 15), st.integers(0, 9)),
)
def test_the_least_used_cpus_are_taken(count: int, allowed: set[int], used: dict[int, int]) -> None:
    picked = pick_cpus(count, allowed, used)
    assert len(picked) == len(set(picked)) == min(count, len(allowed))
    assert set(picked) <= allowed
    rest = allowed - set(picked)
    if picked and rest:
        assert max(used.get(cpu, 0) for cpu in picked) <= min(used.get(cpu, 0) for cpu in rest)


def wish(intent: Intent, at: float, boot: str = "b") -> Wish:
    return Wish(version=1, intent=intent, by="bob", grace=1, at=at, at_boot=at, boot_id=boot)


def test_killed_only_if_the_intent_came_before_the_end() -> None:
    end = End(exit_code=0, ended_at=datetime.fromtimestamp(100, UTC), ended_boot=100, boot_id="b")
    assert judge(end, None, 0).state is State.COMPLETED
    assert judge(end, wish(Intent.PAUSE, 50), 0).state is State.COMPLETED
    assert judge(end, wish(Intent.KILL, 99), 0).state is State.KILLED
    assert judge(end, wish(Intent.KILL, 101), 0).state is State.COMPLETED
    assert (
        judge(End(exit_code=3, ended_boot=100, boot_id="b"), wish(Intent.KILL, 101), 0).state is State.FAILED
    )
    # across a reboot only the time of day can be compared
    earlier = End(exit_code=0, ended_at=datetime.fromtimestamp(40, UTC), ended_boot=1000, boot_id="a")
    assert judge(earlier, wish(Intent.KILL, 50), 0).state is State.COMPLETED
    assert judge(End(signal=9, over_memory=True), None, 0).state is State.KILLED_OOM
    assert judge(End(lost="gone"), None, 0).state is State.LOST
    assert judge(End(never_ran="no"), None, 0).state is State.PENDING
    assert judge(End(signal=11), None, 0).reason == "ended by SIGSEGV"


@given(st.lists(st.text("ab\n", max_size=30), max_size=50), st.integers(0, 60))
def test_a_tail_is_the_last_lines(parts: list[str], count: int) -> None:
    data = "".join(parts).encode()
    lines = data.splitlines(keepends=True)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        start = logs.tail_offset(Path(file.name), count)
    assert data[start:] == b"".join(lines[max(0, len(lines) - count) :])


def test_links_that_a_task_made_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").symlink_to(tmp_path / "secret")
    assert logs.read(tmp_path / "out", 0, 100).data == b""
    assert logs.tail_offset(tmp_path / "out", 5) == 0


def test_cores_obey_affinity_and_quotas_of_both_versions(tmp_path: Path) -> None:
    assert system.cores(affinity=8, root=tmp_path, own="0::/a/b\n") == 8
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert system.cores(affinity=8, root=tmp_path, own="0::/a/b\n") == 1.5
    assert system.cores(affinity=1, root=tmp_path, own="0::/a/b\n") == 1
    (tmp_path / "cpu,cpuacct" / "c").mkdir(parents=True)
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    assert system.cores(affinity=8, root=tmp_path, own="4:cpu,cpuacct:/c\n") == 0.5
    (tmp_path / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    assert system.cores(affinity=8, root=tmp_path, own="4:cpu,cpuacct:/c\n") == 8


def test_numa_nodes_from_sysfs(tmp_path: Path) -> None:
    for number, cpus in ((0, "0-3,8"), (1, "4-7"), (10, "")):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        (folder / "cpulist").write_text(f"{cpus}\n")
        (folder / "meminfo").write_text(f"Node {number} MemTotal:       1024 kB\n")
    (tmp_path / "node2").mkdir()
    found = numa.nodes(tmp_path)
    assert [(each.id, each.cpus, each.memory) for each in found] == [
        (0, [0, 1, 2, 3, 8], 2**20),
        (1, [4, 5, 6, 7], 2**20),
        (10, [], 2**20),
    ]
    assert numa.nodes(tmp_path / "nothing") == []


def test_a_group_of_version_2(tmp_path: Path) -> None:
    """As files: this shows what is written where, the kernel's part is proved where it offers version 2."""
    parent = cgroups.Parent(tmp_path, unified=True)
    made = cgroups.Groups(parent, parent).make("7.1", memory=2**26, cores=0.5)
    assert made.paths == [str(tmp_path / "7.1")]
    group = Path(made.paths[0])
    assert (group / "memory.max").read_text() == str(2**26)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "memory.oom.group").read_text() == "1"
    assert made.oom_file == str(group / "memory.events")
    assert (group / "cpu.max").read_text() == "50000 100000"


def test_no_groups_without_hierarchies() -> None:
    assert cgroups.find("x" * 32, mountinfo="", own="") == cgroups.Groups(None, None)


def test_usage_is_of_this_machine(tmp_path: Path) -> None:
    usage = system.usage(tmp_path)
    assert 0 < usage.memory_used < system.memory()
    assert usage.disk_free is not None
    assert not math.isnan(usage.load)
