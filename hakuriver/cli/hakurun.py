"""``hakurun``: a command once for each combination of its ``span:`` arguments, here.

One file with ``hakuriver.sweep`` and ``hakuriver.errors``, the standard library and nothing else: it is taken
into containers, and runs on any Python from 3.8 on.

Runs one after another have this terminal to themselves. Parallel ones print when they end, each in one
piece, as GNU parallel does. All stay in our process group: a terminal's Ctrl-C reaches them without us.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hakuriver import sweep
from hakuriver.errors import HakuRiverError, NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

USAGE = """\
usage: hakurun [--parallel [N]] [--dry-run] TARGET [ARGUMENT…]

Run TARGET once for each combination of the span: arguments, the last one changing fastest.

  --parallel [N]   N runs at a time, without N one for each processor; each one's output in one piece
  --dry-run        print the command lines, run nothing
  -h, --help       show this

TARGET is an executable, else a Python module, else module:function (arguments as text, numbers of span:{1..9}
as int). Options after TARGET are TARGET's.

  span:{1..5}  span:{01..10}  span:{0..100..25}  span:{A..E}  span:[0.1,0.01]  --lr=span:[0.1,0.01]

Leaves with 0 when all runs did, else with the code of the first run that failed, 128+n for a signal.

examples:
  hakurun python train.py --lr=span:[0.1,0.01] --seed=span:{1..5}
  hakurun --parallel 4 ./simulate span:{1..100}
  hakurun train:main span:{1..3}
"""
NOT_FOUND = 127
NOT_EXECUTABLE = 126
INTERRUPTED = 130
CLOSED_PIPE = 141
GRACE = 10
"""Seconds from TERM to KILL."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(?P<function>:[^\W\d]\w*(\.[^\W\d]\w*)*)?\Z")
_FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
_CALL = """\
import functools, importlib, sys
module, function, numbers = sys.argv[1:4]
given = sys.argv[4:]
sys.argv[:] = [module + ":" + function, *given]
names = function.split(".")
found = functools.reduce(lambda of, name: getattr(of, name, None), names, importlib.import_module(module))
if not callable(found):
    sys.exit("hakurun: module " + module + " has no function " + function)
found(*(int(text) if str(place) in numbers.split(",") else text for place, text in enumerate(given)))
"""


@dataclass(frozen=True)
class Options:
    """What stands before TARGET; ``parallel``: runs at a time, None = one after another."""

    parallel: int | None
    dry_run: bool


def options(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Our options, and TARGET with what follows; raises UsageError."""
    parallel, dry_run, place = None, False, 0
    while place < len(words) and words[place].startswith("-"):
        word, equals, value = words[place].partition("=")
        if word == "--parallel":
            if not equals and place + 1 < len(words) and re.fullmatch(r"[0-9]{1,6}", words[place + 1]):
                place += 1
                equals, value = "=", words[place]
            parallel = _number(value) if equals else _processors()
        elif words[place] == "--dry-run":
            dry_run = True
        elif words[place] == "--":
            place += 1
            break
        else:
            raise UsageError(
                f"there is no option {word}", hint="options of TARGET stand after it; hakurun --help"
            )
        place += 1
    if place == len(words):
        raise UsageError("there is no TARGET", hint="for example: hakurun python train.py --seed=span:{1..5}")
    return Options(parallel, dry_run), list(words[place:])


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise UsageError(
            f"--parallel {text!r} is not a number of runs", hint="--parallel 4, or without a number"
        )
    return int(text)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    """One run: ``shown`` is the command line as it is printed, ``program`` and ``argv`` what is started."""

    number: int
    shown: str
    program: str
    argv: tuple[str, ...]


def runs(found: sweep.Sweep) -> Iterable[Run]:
    """The runs of a sweep, each target looked up once; raises NotFound or UsageError."""
    numbers = ",".join(str(place - 1) for place in sorted(found.numbers()) if place)
    resolved: dict[str, tuple[str, tuple[str, ...]]] = {}
    for number, words in enumerate(found.runs(), 1):
        if words[0] not in resolved:
            resolved[words[0]] = resolve(words[0], numbers)
        program, leading = resolved[words[0]]
        yield Run(number, shlex.join(words), program, (*leading, *words[1:]))


def resolve(target: str, numbers: str = "") -> tuple[str, tuple[str, ...]]:
    """The program of a target and its first arguments; ``numbers`` are the places of a function's arguments
    that are int. Raises NotFound."""
    program = shutil.which(target)
    if program is not None:
        return program, (target,)
    if os.access(target, os.F_OK):
        hint = (
            f"hakurun python {shlex.quote(target)} …"
            if target.endswith(".py")
            else f"chmod +x {shlex.quote(target)}"
        )
        raise UsageError(f"{target} is a file that can't be executed", hint=hint)
    python = shutil.which("python3") or shutil.which("python") or sys.executable
    match = _MODULE.match(target)
    module, _, function = target.partition(":")
    if match is None or not python or not _is_module(python, module):
        where = f" of {python}" if python else ", and there is no Python"
        raise NotFound(f"{target!r} is neither an executable on the PATH nor a module{where}")
    if function:
        return python, (python, "-c", _CALL, module, function, numbers)
    return python, (python, "-m", module)


def _is_module(python: str, name: str) -> bool:
    """Whether the first part of a module's name can be imported by that Python: nothing of it is run here."""
    argv = [python, "-c", _FIND, name.partition(".")[0]]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode == 0


@dataclass
class Started:
    """A run that has begun. ``out`` and ``err`` keep what a parallel one prints."""

    run: Run
    since: float
    out: BinaryIO | None = None
    err: BinaryIO | None = None


class Runner:
    """Starts runs, up to ``at_once`` at a time, and shows how they go."""

    def __init__(self, total: int, at_once: int, *, grouped: bool) -> None:
        self._total = total
        self._at_once = at_once
        self._grouped = grouped
        self._running: dict[int, Started] = {}
        self._codes: dict[int, int] = {}
        self._sent: int | None = None
        self._stopped_by: int | None = None
        self._pipe_closed = False

    def all(self, wanted: Iterable[Run]) -> int:
        """Until every run has ended; the exit code."""
        self._watch_signals()
        for run in wanted:
            while len(self._running) >= self._at_once:
                self._wait()
            if self._stopped_by is not None or self._pipe_closed:
                break
            self._start(run)
        while self._running:
            self._wait()
        return self._code()

    def _code(self) -> int:
        failed = {number: code for number, code in sorted(self._codes.items()) if code}
        if self._total > 1:
            left = self._total - len(self._codes)
            parts = [f"{len(self._codes) - len(failed)} ok"]
            parts += [f"{len(failed)} failed ({_listed(list(failed))})"] if failed else []
            parts += [f"{left} not run"] if left else []
            say(f"{sweep.counted(self._total, 'run')}: {', '.join(parts)}")
        if self._pipe_closed:
            return CLOSED_PIPE
        if self._stopped_by is not None:
            return 128 + self._stopped_by
        return next(iter(failed.values()), 0)

    def _start(self, run: Run) -> None:
        started = Started(run, time.monotonic())
        self._say(run, run.shown)
        actions: list[Any] = []
        try:
            if self._grouped:
                started.out, started.err = _spool(), _spool()
                actions = [
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, started.out.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, started.err.fileno(), 2),
                ]
            pid = os.posix_spawn(
                run.program,
                run.argv,
                os.environ,
                file_actions=actions,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            self._codes[run.number] = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            self._say(run, f"can't be started: {error.strerror}")
            return
        self._running[pid] = started
        if self._sent is not None:  # asked to end while it started
            self._kill(self._sent)

    def _wait(self) -> None:
        """The next end of a run."""
        pid, status = os.wait()
        started = self._running.pop(pid, None)
        if started is None:  # an orphan that came to us as to an init
            return
        killed = os.WIFSIGNALED(status)
        code = 128 + os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
        self._codes[started.run.number] = code
        how = f"killed by {_signal_name(os.WTERMSIG(status))}" if killed else f"exit {code}" if code else "ok"
        self._say(started.run, f"{how} after {_lasted(time.monotonic() - started.since)}")
        for file, to in ((started.out, 1), (started.err, 2)):
            if file is not None:
                with file:
                    self._copy(file, to)

    def _copy(self, file: BinaryIO, to: int) -> None:
        if self._pipe_closed:
            return
        file.seek(0)
        try:
            with open(to, "wb", buffering=0, closefd=False) as out:
                shutil.copyfileobj(file, out)
        except BrokenPipeError:
            self._pipe_closed = True
            self._end()

    def _say(self, run: Run, text: str) -> None:
        if self._total > 1:
            say(f"[{run.number}/{self._total}] {text}")

    def _watch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._asked_to_end)
        signal.signal(signal.SIGALRM, lambda *_: self._kill(signal.SIGKILL))

    def _asked_to_end(self, number: int, _: object) -> None:
        """No new runs. Those that run have had the terminal's first Ctrl-C, too, and may take their time;
        from the second on, and for every other signal, we end them."""
        first = self._stopped_by is None
        self._stopped_by = number if first else self._stopped_by
        if number != signal.SIGINT or not first:
            self._end()
        elif self._running:
            say(f"interrupted: {sweep.counted(len(self._running), 'run')} may finish, once more ends them")

    def _end(self) -> None:
        """TERM, and KILL after a while or when we are asked again."""
        if self._sent is None:
            self._kill(signal.SIGTERM)
            signal.alarm(GRACE)
            say(f"ending {sweep.counted(len(self._running), 'run')}, once more kills them")
        else:
            self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        self._sent = number
        for pid in list(self._running):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _spool() -> BinaryIO:
    return tempfile.TemporaryFile()


def _lasted(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds) // 60
    return f"{minutes}m{int(seconds) % 60:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown} …" if len(numbers) > 10 else shown


def say(text: str) -> None:
    """A remark for people, on standard error; whether somebody reads it doesn't matter."""
    with suppress(OSError):
        print(f"hakurun: {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    """Run a command line; the exit code. Errors are one line on stderr."""
    if words[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    try:
        given, command = options(words)
        found = sweep.parse(command)
        say(found.summary("run"))
        wanted = list(runs(found))
    except HakuRiverError as error:
        say(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
        return NOT_FOUND if isinstance(error, NotFound) else error.exit_code
    if given.dry_run:
        for run in wanted:
            print(run.shown)
        return 0
    grouped = given.parallel is not None and len(wanted) > 1
    return Runner(len(wanted), given.parallel or 1, grouped=grouped).all(wanted)


def run() -> None:
    """``hakurun``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        code = CLOSED_PIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    run()
