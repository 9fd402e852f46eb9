"""What a CUDA program sees: prints it, and with ``--stay`` holds the first device until it is ended.

Standard library and driver only: tasks run it with whatever Python is there.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any


def call(cuda: Any, name: str, *arguments: Any) -> None:
    """One call of the driver API; raises RuntimeError."""
    code = getattr(cuda, name)(*arguments)
    if code != 0:
        raise RuntimeError(f"{name} failed with {code}")


def uuids(cuda: Any) -> list[str]:
    """Of every device that this process can see, as NVML writes them (of an instance: its GPU's)."""
    call(cuda, "cuInit", 0)
    count = ctypes.c_int()
    call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    found = []
    for number in range(count.value):
        raw = (ctypes.c_ubyte * 16)()
        call(cuda, "cuDeviceGetUuid", ctypes.byref(raw), number)
        text = bytes(raw).hex()
        parts = text[:8], text[8:12], text[12:16], text[16:20], text[20:]
        found.append(f"GPU-{'-'.join(parts)}")
    return found


def main() -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    found = uuids(cuda)
    if "--stay" in sys.argv:
        context = ctypes.c_void_p()
        call(cuda, "cuCtxCreate_v2", ctypes.byref(context), 0, 0)
    print(json.dumps(found), flush=True)
    if "--stay" in sys.argv:
        time.sleep(600)


if __name__ == "__main__":
    main()
