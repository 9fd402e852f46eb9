"""What /proc knows of processes, and signals to exactly those that were seen there."""

# ruff: noqa: PTH110, PTH123, PTH208  pathlib would cost every start of the fork server more than all of this

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator

PR_SET_CHILD_SUBREAPER = 36


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def boottime() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process(pid: int) -> tuple[str, int, int, int] | None:
    """``(state, parent, group, start time in clock ticks)`` of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parts = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return parts[0].decode(), int(parts[1]), int(parts[2]), int(parts[19])


def children(pid: int) -> list[int]:
    """Direct children of a process; on kernels without the file for it, by a walk through /proc."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):
                every = (int(name) for name in os.listdir("/proc") if name.isdigit())
                return [each for each in every if (process(each) or ("", 0))[1] == pid]
        except OSError:
            continue
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """The roots and all their descendants."""
    found: dict[int, None] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = None
            waiting += children(pid)
    return list(found)


def alive(pids: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """``(pid, group, start time)`` of those that still run (a zombie doesn't)."""
    for pid in pids:
        facts = process(pid)
        if facts is not None and facts[0] not in "ZX":
            yield pid, facts[2], facts[3]


def send(pid: int, started: int, number: int) -> None:
    """A signal to exactly the process that was seen: a pid that was reused in between is left alone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel without pidfd: the window is as small as it gets
        with contextlib.suppress(OSError):
            os.kill(pid, number)
        return
    try:
        facts = process(pid)
        if facts is not None and facts[3] == started:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        pass
    finally:
        os.close(handle)


def resident(pids: Iterable[int]) -> int:
    """Bytes resident in all processes; pages they share are counted for each. Cheap, never too low."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def proportional(pids: Iterable[int]) -> int:
    """Bytes of anonymous and shared memory, each page counted once over all processes; dear, exact."""
    total = 0
    for pid in pids:
        fields: dict[bytes, int] = {}
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                name, _, rest = line.partition(b":")
                if name in (b"Pss", b"Pss_Anon", b"Pss_Shmem"):
                    fields[name] = int(rest.split()[0])
        exact = fields.get(b"Pss_Anon", 0) + fields.get(b"Pss_Shmem", 0)
        total += (exact if b"Pss_Anon" in fields else fields.get(b"Pss", 0)) * 1024
    return total


def be_reaper() -> None:
    """Become the parent of every descendant that loses its own."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> Iterator[tuple[int, int]]:
    """Children that ended, with their wait status. Each is taken away only when the next one is asked for:
    who stores its end in between, and is killed before that is done, leaves it to be seen by the next."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        core = 0x80 if found.si_code == os.CLD_DUMPED else 0
        raw = found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status | core
        yield found.si_pid, raw
        os.waitpid(found.si_pid, 0)
