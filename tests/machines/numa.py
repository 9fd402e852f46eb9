"""Runs inside a guest with two NUMA nodes: a real runner, and what became of the tasks that it was given."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.machines.guest import RESULT
from tests.runner.peer import Host, Runner

SLOW = 120.0  # seconds: every instruction is emulated
TOUCH = """
import json, os, re
data = bytearray(48 << 20)
pages, policies = {}, set()
for line in open("/proc/self/numa_maps"):
    policies.add(line.split()[1])
    if "anon=" in line:
        for node, count in re.findall(r" N(\\d+)=(\\d+)", line):
            pages[node] = pages.get(node, 0) + int(count)
print(json.dumps({"pages": pages, "policies": sorted(policies), "cpus": sorted(os.sched_getaffinity(0))}))
"""
BURN = """
import os, time
def used(): return sum(os.times()[:4])
start, before = time.monotonic(), used()
kid = os.fork()
while time.monotonic() < start + 2: pass
if kid == 0: os._exit(0)
os.waitpid(kid, 0)
print((used() - before) / (time.monotonic() - start))
"""
EAT = "data = bytearray(200 << 20)"


def main() -> None:
    host = Host()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), host)
        try:
            runner.launch()
            host.wait(lambda: host.registrations, timeout=SLOW, what="registration")
            found = look(runner)
        except AssertionError:
            print(runner.log[-3000:], flush=True)
            raise
        finally:
            runner.close()
            host.close()
    print("\n" + RESULT + json.dumps(found), flush=True)


def look(runner: Runner) -> dict[str, Any]:
    def python(code: str, **facts: Any) -> int:
        return runner.submit(sys.executable, "-S", "-c", code, **facts)

    def said(task: int) -> str:
        runner.host.end(task, timeout=SLOW)
        return (runner.whole_log(task) or runner.whole_log(task, "stderr")).decode()

    free, near, far = python(TOUCH), python(TOUCH, cores=2, numa=0), python(TOUCH, cores=2, numa=1)
    shown = runner.submit("numactl", "--show", cores=1, pin=True, numa=1)
    over, share = python(EAT, memory=64 << 20), python(BURN, cores=0.5)
    return {
        "facts": runner.host.registrations[-1]["facts"],
        "free": json.loads(said(free)),
        "bound": [json.loads(said(near)), json.loads(said(far))],
        "numactl": said(shown),
        "share": float(said(share)),
        "over": runner.host.end(over, timeout=SLOW),
        "log": runner.log,
    }


if __name__ == "__main__":
    main()
