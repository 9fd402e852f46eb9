"""What the kernel says of a container, where the engine may have missed it.

Under load the engine can miss that a container was killed for memory: its control group is gone before the
notice is read. The kernel's own log still has it, with the container's id in the path of its group.
"""

from __future__ import annotations

import os
from pathlib import Path

KMSG = Path("/dev/kmsg")
_RECORD = 8192  # longer than any record may be
_MOST = 50_000  # records read at a time


def killed_for_memory(container: str, log: Path = KMSG) -> bool:
    """Whether the kernel's log tells of a process that was killed in a container's memory group; False where
    this user may not read it."""
    needle = container.encode()
    try:
        file = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for _ in range(_MOST):
            try:
                record = os.read(file, _RECORD)
            except BrokenPipeError:  # records were overwritten meanwhile: it goes on with the oldest
                continue
            if not record:
                return False
            if b"oom-kill:" in record and needle in record.partition(b"oom_memcg=")[2]:
                return True
    except OSError:  # BlockingIOError is the end of the log
        return False
    finally:
        os.close(file)
    return False
