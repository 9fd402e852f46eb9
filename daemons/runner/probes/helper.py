"""The runner's side of the process that speaks NVML. Blocking: for a thread."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from daemons.runner.probes.nvml import NO_LIBRARY, Device

ROOT = Path(__file__).resolve().parents[3]  # where our packages are
FIRST_DELAY, MAX_DELAY = 1.0, 60.0  # seconds after which one that failed is started again
LIBRARY_DELAY = 300.0  # the same where there is no driver at all
NO_ANSWER = "the NVIDIA driver doesn't answer"


class NoDriver(Exception):
    """The driver can't be asked now: the reason. ``library``: because there is none on this machine."""

    def __init__(self, reason: str, *, library: bool = False) -> None:
        super().__init__(reason)
        self.library = library


class Helper:
    """Starts the process when it is needed, and another one, later and later, when it failed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._stuck: subprocess.Popen[bytes] | None = None  # killed, but it hangs in the driver
        self._buffer = b""
        self._delay = FIRST_DELAY
        self._next_start = 0.0
        self._why = NoDriver(NO_ANSWER)

    def ask(self, timeout: float) -> list[Device]:
        """All devices as they are now; raises NoDriver, also when no answer comes within ``timeout`` s."""
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended comes next
            process.stdin.write(b"\n")
        line = self._line(process, self._clock() + timeout)
        try:
            answer = json.loads(line)
            devices = [Device(**each) for each in answer["devices"]]
        except (ValueError, TypeError):
            raise self._failed(process, NoDriver(_ended(process))) from None
        except KeyError:
            failure = NoDriver(answer["failure"], library=answer["kind"] == NO_LIBRARY)
            raise self._failed(process, failure) from None
        self._delay = FIRST_DELAY
        return devices

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._clock() < self._next_start or (self._stuck is not None and self._stuck.poll() is None):
            raise self._why
        self._buffer, self._stuck = b"", None
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        try:
            found = subprocess.Popen(command(), stdin=pipe, stdout=pipe, stderr=nothing, bufsize=0, cwd="/")
        except OSError as error:
            raise NoDriver(f"no process can be made to ask the NVIDIA driver: {error.strerror}") from error
        self._process = found
        return found

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The next line, or what came of it before the process ended."""
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, deadline - self._clock()) * 1000):
                raise self._failed(process, NoDriver(NO_ANSWER))
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _failed(self, process: subprocess.Popen[bytes], why: NoDriver) -> NoDriver:
        """Be rid of the process, and say when the next one may be tried."""
        _end(process)
        self._stuck = process if process.poll() is None else None
        self._process, self._why = None, why
        self._next_start = self._clock() + (LIBRARY_DELAY if why.library else self._delay)
        self._delay = min(self._delay * 2, MAX_DELAY)
        return why


def command() -> list[str]:
    """How to start it. Our root and pynvml's folder come last on its path: nothing there can stand in for the
    standard library."""
    found = importlib.util.find_spec("pynvml")
    places = [str(ROOT), *([str(Path(found.origin).parent)] if found and found.origin else [])]
    code = (
        "import sys; sys.path += sys.argv[1:]; from daemons.runner.probes.nvml import main; sys.exit(main())"
    )
    return [sys.executable, "-I", "-S", "-c", code, *places]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the driver, where nothing ends it
        process.wait(1)


def _ended(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(1)
        return f"the NVIDIA driver's library ended the process that used it ({code})"
    return "the NVIDIA driver's library can't be understood"
