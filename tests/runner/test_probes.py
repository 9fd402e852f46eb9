"""What a runner finds out about its machine, from trees of files as kernels make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runner.probes import engines, numa, pci, sysfs, system
from daemons.runner.probes.gpu import NOT_LISTED, merge
from daemons.runner.probes.nvml import Device
from hakuriver.nodewire import GpuFacts, NumaFacts

MEBI = 2**20


def tree(root: Path, nodes: Mapping[int, tuple[str, int]], *, far: int = 20) -> Path:
    """``/sys/devices/system/node`` with, for each id, a list of CPUs and MiB of memory."""
    for number, (cpus, mebibytes) in nodes.items():
        folder = root / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus}\n")
        lines = [f"Node {number} MemTotal:       {mebibytes * 1024} kB", f"Node {number} MemFree:  12 kB"]
        (folder / "meminfo").write_text("\n".join(lines) + "\n")
        (folder / "distance").write_text(
            " ".join("10" if each == number else str(far) for each in nodes) + "\n"
        )
    (root / "online").write_text(",".join(map(str, nodes)) + "\n")
    (root / "possible").write_text("0-1023\n")
    (root / "power").mkdir()
    return root


def hardware(nodes: Sequence[NumaFacts]) -> str:
    """The same machine in the words of ``numactl --hardware`` (2.0.16)."""
    ids = [each.id for each in nodes]
    lines = [f"available: {len(ids)} nodes ({','.join(map(str, ids))})"]
    for each in nodes:
        lines.append(f"node {each.id} cpus:{''.join(f' {cpu}' for cpu in each.cpus)}")
        lines += [f"node {each.id} size: {each.memory // MEBI} MB", f"node {each.id} free: 1 MB"]
    lines += ["node distances:", f"node {' '.join(f'{number:3}' for number in ids)} "]
    lines += [f"{each.id:3}: {' '.join(f'{far:3}' for far in each.distances)} " for each in nodes]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_machines_with_so_many_numa_nodes(tmp_path: Path, count: int) -> None:
    each = 16
    given_nodes = {n: (f"{n * each}-{n * each + each - 1}", 1000 + n) for n in range(count)}
    found = numa.nodes(tree(tmp_path / "node", given_nodes))
    assert [node.id for node in found] == list(range(count))
    assert [cpu for node in found for cpu in node.cpus] == list(range(count * each))
    assert [node.memory for node in found] == [(1000 + n) * MEBI for n in range(count)]
    assert [node.distances for node in found] == [
        [10 if a == b else 20 for b in range(count)] for a in range(count)
    ]


def test_nodes_without_memory_without_cpus_and_with_gaps_between_their_numbers(tmp_path: Path) -> None:
    """A socket without DIMMs, two interleaved ones, and memory on a card (CXL, or a GPU's own)."""
    root = tree(tmp_path / "node", {0: ("0-3,8-11", 0), 2: ("4-7,12-15", 512), 10: ("", 2048)})
    found = numa.nodes(root)
    assert [(node.id, len(node.cpus), node.memory) for node in found] == [
        (0, 8, 0),
        (2, 8, 512 * MEBI),
        (10, 0, 2048 * MEBI),
    ]
    assert found[0].cpus == [0, 1, 2, 3, 8, 9, 10, 11]
    assert found[2].distances == [20, 20, 10]


def test_a_node_that_is_offline_is_none(tmp_path: Path) -> None:
    root = tree(tmp_path / "node", {0: ("0-1", 100), 1: ("2-3", 100)})
    (root / "online").write_text("0\n")
    (root / "node0" / "distance").write_text("10\n")
    assert [(node.id, node.distances) for node in numa.nodes(root)] == [(0, [10])]


def test_a_tree_that_is_not_whole(tmp_path: Path) -> None:
    root = tree(tmp_path / "node", {0: ("0-1", 100), 1: ("2-3", 100), 2: ("x", 100)})
    (root / "online").unlink()
    (root / "node0" / "meminfo").write_bytes(b"\xff\xfe nonsense")
    (root / "node1" / "distance").unlink()
    (root / "nodes").mkdir()
    found = numa.nodes(root)
    assert [(node.id, node.memory, node.distances) for node in found] == [
        (0, 0, [10, 20, 20]),
        (1, 100 * MEBI, []),
    ]
    assert numa.nodes(tmp_path / "nothing") == []


@given(st.sets(st.integers(0, 300)))
def test_the_kernels_lists(numbers: set[int]) -> None:
    assert sysfs.parse_list(",".join(map(str, sorted(numbers)))) == sorted(numbers)
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    assert sysfs.parse_list(",".join(f"{a}-{b}" for a, b in runs) + "\n") == sorted(numbers)


def test_what_numactl_says_is_compared(tmp_path: Path) -> None:
    ours = numa.nodes(tree(tmp_path / "node", {0: ("0-3", 0), 2: ("4-7", 512), 10: ("", 2048)}))
    assert numa.parse_hardware(hardware(ours)) == ours
    assert numa.differences(ours, numa.parse_hardware(hardware(ours))) == []
    assert numa.differences(ours, ours[:2]) == ["nodes: sysfs [0, 2, 10], numactl [0, 2]"]
    others = [
        ours[0].model_copy(update={"cpus": [0, 1]}),
        ours[1].model_copy(update={"distances": [21, 10, 20]}),
        ours[2].model_copy(update={"memory": 1024 * MEBI}),
    ]
    assert [line.partition(":")[0] for line in numa.differences(ours, others)] == [
        "CPUs of node 0",
        "distances of node 2",
        "memory of node 10",
    ]


def test_numactl_agrees_about_this_machine() -> None:
    assert numa.contradictions(numa.nodes()) == []


def test_a_numactl_that_is_absent_or_fails(tmp_path: Path) -> None:
    found = [NumaFacts(id=0, cpus=[0], memory=1)]
    assert numa.contradictions(found, str(tmp_path / "numactl")) == []
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    assert "can't be asked" in numa.contradictions(found, str(failing))[0]


def test_sockets_cores_and_threads(tmp_path: Path) -> None:
    """Two sockets with two cores of two threads each, one thread of which is offline."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{cpu % 4 // 2}\n")
        (folder / "core_cpus_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "online").write_text("0-6\n")
    (tmp_path / "cpuinfo").write_text("processor : 0\ncpu family : 6\nmodel name : A Fast One @ 3 GHz\n")
    found = system.cpu(tmp_path, tmp_path / "cpuinfo")
    assert found is not None
    assert (found.sockets, found.cores, found.threads) == (2, 4, 7)
    assert found.model == "A Fast One @ 3 GHz"
    assert system.cpu(tmp_path / "nothing") is None


def test_the_cpus_of_this_machine() -> None:
    found = system.cpu()
    assert found is not None
    online = sysfs.numbers(Path("/sys/devices/system/cpu/online")) or []
    assert 1 <= found.sockets <= found.cores <= found.threads == len(online)


def test_gpus_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind, node in [
        ("0000:3b:00.0", "0x10de", "0x030200", 1),
        ("0000:3b:00.1", "0x10de", "0x040300", 1),  # its sound
        ("0000:af:00.0", "0x10de", "0x030000", -1),
        ("0000:00:02.0", "0x8086", "0x030000", 0),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
        (folder / "numa_node").write_text(f"{node}\n")
    assert pci.nvidia(tmp_path) == ["0000:3b:00.0", "0000:af:00.0"]
    assert pci.numa_of("00000000:3B:00.0", tmp_path) == 1
    assert pci.numa_of("00000000:AF:00.0", tmp_path) is None
    assert pci.numa_of("00000000:FF:00.0", tmp_path) is None
    assert pci.numa_of("", tmp_path) is None


# ---- engines


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("uid", "sudo", "lingers", "manager", "way", "reason"),
    [
        (0, "exit 1", False, "exit 1", "root", ""),
        (65534, "exit 0", False, "exit 1", "sudo", ""),
        (65534, "exit 1", True, "exit 0", "user", ""),
        (65534, "exit 1", True, "exit 1", None, "the systemd manager of nobody doesn't answer"),
        (65534, "exit 1", False, "exit 0", None, "loginctl enable-linger nobody"),
    ],
)
def test_ways_to_systemd(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    sudo: str,
    lingers: bool,
    manager: str,
    way: str | None,
    reason: str,
) -> None:
    tools = tmp_path / "bin"
    tool(tools, "systemctl", f'case "$1" in --user) {manager};; *) echo "systemd 257 (257.1-1)";; esac')
    tool(tools, "sudo", sudo)
    if lingers:
        (tmp_path / "nobody").touch()
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    found = engines.systemd(booted=tmp_path, linger=tmp_path, uid=uid)
    assert (found.version, found.how, found.private_pids) == (257, way, True)
    assert found.reason.endswith(reason) or reason in found.reason
    assert bool(found.reason) == (way is None)


def test_machines_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engines.systemd() == engines.Systemd(0, None, "systemd isn't installed")
    tool(tmp_path, "systemctl", 'echo "systemd 252 (252.38-1~deb12u1)"')
    found = engines.systemd(booted=tmp_path / "nothing")
    assert (found.version, found.how, found.private_pids) == (252, None, False)
    assert "process 1" in found.reason


def test_what_docker_can_do_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plain: dict[str, Any] = {"ServerVersion": "28.3.1", "Runtimes": {"runc": {}}, "DiscoveredDevices": None}
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]
    assert engines.docker(plain) == engines.Docker("28.3.1", None)
    assert engines.docker(plain | {"Runtimes": {"runc": {}, "nvidia": {}}}).nvidia == "runtime"
    assert engines.docker(plain | {"DiscoveredDevices": devices}).nvidia == "cdi"
    assert engines.docker({}) == engines.Docker("unknown", None)
    tool(tmp_path, "nvidia-container-runtime-hook", "exit 0")
    assert str(engines.docker(plain)) == "28.3.1, NVIDIA by hook"


# ---- which GPUs there are


def device(index: int, uuid: str, parent: str | None = None, **facts: Any) -> Device:
    return Device(index, uuid, "M", parent=parent, memory=8, **facts)


def nowhere(bus: str) -> int | None:
    return None


def test_gpus_that_come_and_go() -> None:
    first, lost = merge((), [device(0, "a"), device(1, "b"), device(2, "c")], nowhere)
    assert [(each.index, each.uuid) for each in first] == [(0, "a"), (1, "b"), (2, "c")]
    assert lost == {}
    again, lost = merge(first, [device(0, "a"), Device(1, lost="GPU is lost"), device(2, "c")], nowhere)
    assert again == first
    assert lost == {"b": "GPU is lost"}
    # the driver was loaded anew and counts without it: numbers stay
    later, lost = merge(first, [device(0, "a"), device(1, "c"), device(2, "d")], nowhere)
    assert [(each.index, each.uuid) for each in later] == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
    assert lost == {"b": NOT_LISTED}


def test_a_gpu_that_was_lost_before_anybody_knew_it() -> None:
    found, lost = merge((), [device(0, "a"), Device(1, lost="GPU is lost")], nowhere)
    assert [(each.index, each.uuid) for each in found] == [(0, "a"), (1, "unknown-1")]
    assert lost == {"unknown-1": "GPU is lost"}
    assert merge(found, [device(0, "a"), Device(1, lost="GPU is lost")], nowhere) == (found, lost)
    found, lost = merge(found, [device(0, "a"), device(1, "b")], nowhere)
    assert [(each.index, each.uuid) for each in found] == [(0, "a"), (1, "b")]
    assert lost == {}


def test_instances_are_devices_and_their_gpu_is_none() -> None:
    devices = [device(0, "a", mig=True), device(100, "x", "a"), device(101, "y", "a"), device(1, "b")]
    found, _ = merge((), devices, nowhere)
    assert [(each.index, each.uuid, each.mig, each.parent) for each in found] == [
        (0, "a", True, None),
        (1, "b", False, None),
        (100, "x", False, "a"),
        (101, "y", False, "a"),
    ]
    fewer, lost = merge(found, [devices[0], devices[2], devices[3]], nowhere)
    assert [each.uuid for each in fewer] == ["a", "b", "y"]
    assert lost == {}
    kept, lost = merge(found, [Device(0, lost="GPU is lost"), devices[3]], nowhere)
    assert kept == found
    assert lost == dict.fromkeys(("a", "x", "y"), "GPU is lost")


def test_the_numa_node_of_a_gpu() -> None:
    def bus(name: str) -> int | None:
        return {"00000000:3B:00.0": 1}.get(name)

    devices = [
        device(0, "a", bus="00000000:3B:00.0", near=(0,)),
        device(1, "b", near=(3,)),
        device(2, "c", near=(0, 1)),
    ]
    assert [each.numa for each in merge((), devices, bus)[0]] == [1, 3, None]


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6), max_size=6), st.data())
def test_numbers_stay_and_are_never_shared(looks: list[list[str]], data: st.DataObject) -> None:
    known: tuple[GpuFacts, ...] = ()
    ever: dict[str, int] = {}
    for uuids in looks:
        hide = data.draw(st.sets(st.sampled_from(uuids))) if uuids else set()
        devices = [
            Device(place, lost="GPU is lost") if uuid in hide else device(place, uuid)
            for place, uuid in enumerate(uuids)
        ]
        known, lost = merge(known, devices, nowhere)
        numbers = {each.uuid: each.index for each in known}
        assert len(set(numbers.values())) == len(numbers)
        real = {uuid: number for uuid, number in numbers.items() if not uuid.startswith("unknown")}
        assert real | ever == real, "who was known keeps its number"
        ever = real
        assert set(uuids) - hide <= real.keys() - lost.keys()
        assert lost.keys() <= numbers.keys()
