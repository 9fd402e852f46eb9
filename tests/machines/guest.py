"""A virtual machine with NUMA nodes that has this Python and our code at the same places, and runs a module.

Nothing is installed in it: its first process is a shell of busybox, and all that it has lies in memory.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path(tempfile.gettempdir()) / "hakuriver-lab-kernel"  # .ci/lab puts one there
RESULT = "RESULT "
_UNUSED = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|config-[^/]*|site-packages)(/|$)"
)
_INIT = f"""#!/bin/sh
export PATH=/bin:/usr/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 none /sys/fs/cgroup
ifconfig lo 127.0.0.1 up
cd {ROOT}
{sys.executable} -m "$MODULE" </dev/null >/dev/ttyS0 2>&1
echo o >/proc/sysrq-trigger
sleep 60
"""


def missing() -> str | None:
    """What isn't here and is needed."""
    if not any(KERNELS.glob("boot/vmlinuz-*")):
        return f"no kernel in {KERNELS}"
    for tool in ("/usr/bin/qemu-system-x86_64", "/usr/bin/numactl", "/bin/busybox"):
        if not Path(tool).exists():
            return f"no {tool}"
    return None


def run(module: str, *, nodes: int, timeout: float) -> tuple[dict[str, Any], str]:
    """Boot, run ``python -m module`` there, power off: what it printed as its result, and all that it said.
    Each NUMA node has two CPUs and 512 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "initramfs"
        image.write_bytes(_archive(module))
        done = subprocess.run(
            [*_machine(nodes), "-kernel", str(next(KERNELS.glob("boot/vmlinuz-*"))), "-initrd", str(image)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    text = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
    found = [line for line in text.splitlines() if line.startswith(RESULT)]
    assert found, text[-5000:]
    return json.loads(found[-1].removeprefix(RESULT)), text


def _machine(nodes: int) -> list[str]:
    words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]
    words += ["-smp", str(2 * nodes), "-m", str(512 * nodes), "-nographic", "-no-reboot", "-nodefaults"]
    words += ["-serial", "stdio"]
    for node in range(nodes):
        words += ["-object", f"memory-backend-ram,id=m{node},size=512M"]
        words += ["-numa", f"node,nodeid={node},cpus={2 * node}-{2 * node + 1},memdev=m{node}"]
    return [*words, "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off"]


# ---- what it has


def _archive(module: str) -> bytes:
    """An initramfs (cpio, newc)."""
    buffer = io.BytesIO()
    made: set[Path] = set()

    def add(path: Path, mode: int, data: bytes = b"", at: float = 0) -> None:
        if path in made:
            return
        made.add(path)
        if path.parent != path:
            add(path.parent, stat.S_IFDIR | 0o755)
        if path != Path("/"):
            _entry(buffer, str(path).lstrip("/"), mode, data, number=len(made), at=at)

    for folder in ("/proc", "/sys", "/dev", "/root", "/tmp"):
        add(Path(folder), stat.S_IFDIR | 0o755)
    add(Path("/init"), stat.S_IFREG | 0o755, _INIT.replace("$MODULE", module).encode())
    add(Path("/bin/busybox"), stat.S_IFREG | 0o755, Path("/bin/busybox").read_bytes())
    listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        add(Path("/bin") / name, stat.S_IFLNK | 0o777, b"busybox")
    for path in _files():
        while path.is_symlink():
            add(path, stat.S_IFLNK | 0o777, os.fsencode(path.readlink()))
            path = Path(os.path.normpath(path.parent / path.readlink()))  # noqa: PLW2901
        # compiled code counts only beside a source of the right age
        add(path, stat.S_IFREG | 0o755, path.read_bytes(), path.stat().st_mtime)
    _entry(buffer, "TRAILER!!!", 0, b"", number=0, at=0)
    return buffer.getvalue()


def _entry(buffer: io.BytesIO, name: str, mode: int, data: bytes, *, number: int, at: float) -> None:
    fields = (number, mode, 0, 0, 1, int(at), len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    for part in (head, data):
        buffer.write(part.ljust(-(-len(part) // 4) * 4, b"\0"))


def _files() -> Iterator[Path]:
    """Interpreter, standard library, packages of a runner, our code, numactl, and what they are linked to."""
    programs = [Path(sys.executable), Path("/usr/bin/numactl")]
    yield from programs
    yield from (path for path in (Path(sys.prefix) / "pyvenv.cfg",) if path.exists())
    modules = [*_code(Path(sysconfig.get_path("stdlib"))), *_installed()]
    yield from modules
    for name in ("hakuriver", "daemons", "tests"):
        yield from (path for path in (ROOT / name).rglob("*.py*") if path.suffix in (".py", ".pyc"))
    yield from _libraries([*programs, *(path for path in modules if path.suffix == ".so")])


def _code(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        unused = _UNUSED.search(f"/{path.parent.relative_to(folder)}") or ".opt-" in path.name
        if path.suffix in (".py", ".pyc", ".so") and not unused:
            yield path


def _installed() -> Iterator[Path]:
    """The distributions that a runner needs, with those that they need."""
    waiting, seen = ["starlette", "uvicorn", "httpx", "pydantic", "docker", "psutil"], set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # one of another platform
            continue
        if name not in seen:
            seen.add(name)
            yield from (path for each in found.files or () if (path := Path(str(each.locate()))).is_file())
            needed = [each for each in found.requires or () if "extra ==" not in each]
            waiting += [re.split(r"[^A-Za-z0-9._-]", each)[0] for each in needed]


def _libraries(programs: Iterable[Path]) -> set[Path]:
    shown = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", shown)}
