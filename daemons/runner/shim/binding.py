"""Where a task may run: CPUs and memory, for the calling process and all that it will start."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Iterable
from typing import Any

MPOL_BIND = 2
# of set_mempolicy, which the C library doesn't have
_CALLS = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 269}


def bind(order: dict[str, Any]) -> Iterable[str]:
    """Take on what an order says, step by step; each step is named before it is done and raises OSError."""
    if order.get("cpus"):
        yield "set the CPU affinity"
        os.sched_setaffinity(0, order["cpus"])
    if order.get("mems"):
        yield f"bind its memory to NUMA node {', '.join(map(str, order['mems']))}"
        bind_memory(order["mems"])
    for number, soft, hard in order.get("ulimits", ()):
        yield f"set ulimit {number} to {soft}:{hard}"
        set_ulimit(number, soft, hard)


def bind_memory(nodes: Iterable[int]) -> None:
    """Take memory from these NUMA nodes only; raises OSError."""
    number = _CALLS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    mask = sum(1 << node for node in set(nodes))
    width = ctypes.sizeof(ctypes.c_ulong) * 8
    words = [mask >> shift & (1 << width) - 1 for shift in range(0, mask.bit_length(), width)]
    array = (ctypes.c_ulong * len(words))(*words)
    # the kernel looks at one bit less than it is told of
    if ctypes.CDLL(None, use_errno=True).syscall(number, MPOL_BIND, array, len(words) * width + 1) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_ulimit(number: int, soft: int, hard: int) -> None:
    """Set a limit of this process; raises OSError."""
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # what Python makes of EPERM, and of a soft limit above the hard one
        raise OSError(errno.EPERM, str(error)) from None


def move(threads: Iterable[int], before: set[int], after: set[int]) -> None:
    """Let threads run on other CPUs than ``before``; those that took a part of them keep what is left."""
    for thread in threads:
        try:
            now = os.sched_getaffinity(thread)
            wanted = after if now == before else now & after or after
            if wanted != now:
                os.sched_setaffinity(thread, wanted)
        except ProcessLookupError:
            continue
