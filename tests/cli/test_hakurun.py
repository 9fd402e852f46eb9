"""hakurun: the product of its spans, run here."""

from __future__ import annotations

import ast
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hakuriver import sweep
from hakuriver.cli import hakurun
from hakuriver.errors import UsageError
from tests.waiting import until

HAKURUN = str(Path(sys.executable).with_name("hakurun"))


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HAKURUN, *words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_run_for_each_combination_in_order() -> None:
    done = run("printf", r"%s\n", "--lr=span:[0.1,0.01]", "--seed", "span:{1..2}")
    assert done.returncode == 0
    assert done.stdout.split() == [
        *("--lr=0.1", "--seed", "1", "--lr=0.1", "--seed", "2"),
        *("--lr=0.01", "--seed", "1", "--lr=0.01", "--seed", "2"),
    ]
    said = done.stderr.splitlines()
    assert said[0] == "hakurun: lr: 2 values × seed: 2 values = 4 runs"
    assert said[1] == r"hakurun: [1/4] printf '%s\n' --lr=0.1 --seed 1"
    assert said[2].startswith("hakurun: [1/4] ok after ")
    assert said[-1] == "hakurun: 4 runs: 4 ok"


def test_what_bash_makes_of_unquoted_spans_is_the_same() -> None:
    line = "echo --lr=span:{1..3} span:{A..B} -- --json"
    quoted = run("echo", "--lr=span:{1..3}", "span:{A..B}", "--", "--json")
    unquoted = subprocess.run(
        ["bash", "-c", f"{HAKURUN} {line}"], capture_output=True, text=True, timeout=60, check=True
    )
    assert unquoted.stdout == quoted.stdout
    assert len(quoted.stdout.splitlines()) == 6
    assert "lr: 3 values × span:A…B: 2 values = 6 runs" in unquoted.stderr


def test_without_spans_it_is_one_run_with_our_streams_and_its_code() -> None:
    done = run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "hakurun: 1 run\nerr\n")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A folder with a module, a package and a script."""
    (tmp_path / "training.py").write_text(
        "import sys\n"
        "def main(*given): print(sys.argv[0], *map(repr, given))\n"
        "class Model:\n"
        "    @staticmethod\n"
        "    def fit(number): sys.exit(int(number) - 1)\n"
        "if __name__ == '__main__': print('as a module', *sys.argv[1:])\n"
    )
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text("print(__name__)\n")
    (tmp_path / "package" / "__init__.py").write_text("raise SystemExit('only a run may import this')\n")
    return tmp_path


def test_a_function_gets_text_and_the_numbers_of_ranges_as_int(module: Path) -> None:
    done = run("training:main", "span:{9..10}", "5", "span:[7]", "--x=span:{1..1}", "-v", cwd=module)
    assert done.stdout.splitlines() == [
        "training:main 9 '5' '7' '--x=1' '-v'",
        "training:main 10 '5' '7' '--x=1' '-v'",
    ]
    unquoted = run("training:main", "span:9", "span:10", "5", "span:[7]", "--x=span:1", "-v", cwd=module)
    assert unquoted.stdout == done.stdout
    assert run("training:Model.fit", "span:{1..3}", cwd=module).returncode == 1


def test_a_module_runs_as_python_m_would(module: Path) -> None:
    done = run("training", "--parallel", "span:{1..2}", cwd=module)
    assert done.stdout == "as a module --parallel 1\nas a module --parallel 2\n"


def test_an_executable_comes_before_a_module(module: Path) -> None:
    (module / "sh.py").write_text("print('the module')\n")
    assert run("sh", "-c", "echo the shell", cwd=module).stdout == "the shell\n"


def test_looking_a_module_up_runs_nothing_of_it(module: Path) -> None:
    assert run("--dry-run", "package.inner", cwd=module).returncode == 0
    assert "only a run may import this" in run("package.inner", cwd=module).stderr


def test_a_dry_run_prints_what_a_shell_would_take(tmp_path: Path) -> None:
    done = run("--dry-run", "--parallel", "touch", "a b-span:{1..2}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "touch 'a b-1'\ntouch 'a b-2'\n")
    assert done.stderr == "hakurun: span:{1..2}: 2 values = 2 runs\n"
    assert list(tmp_path.iterdir()) == []


def test_the_first_failing_run_decides_and_the_others_still_run() -> None:
    script = "case $0 in 2) exit 9;; 3) kill -SEGV $$;; esac; echo $0"
    done = run("sh", "-c", script, "span:{1..4}")
    assert (done.returncode, done.stdout) == (9, "1\n4\n")
    assert "[2/4] exit 9 after" in done.stderr
    assert "[3/4] killed by SIGSEGV (11) after" in done.stderr
    assert done.stderr.endswith("hakurun: 4 runs: 2 ok, 2 failed (2, 3)\n")
    assert run("sh", "-c", "kill -9 $$", "span:{1..2}").returncode == 137


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "there is no TARGET"),
        (["--paralel", "true"], 2, "there is no option --paralel"),
        (["--parallel=0", "true"], 2, "'0' is not a number of runs"),
        (["no-such-thing"], 127, "neither an executable on the PATH nor a module"),
        (["no.such.module:function"], 127, "neither an executable"),
        (["/etc/passwd"], 2, "can't be executed (chmod +x /etc/passwd)"),
        (["true", "span:{1..x}"], 2, "a range goes from number to number"),
        (["true", "span:{1..999}", "span:{1..999}"], 2, "the most is 100000"),
    ],
)
def test_refusals(words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hakurun.main(words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err


def test_what_can_not_be_started_fails_that_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no program at all")
    broken.chmod(0o755)
    done = run(str(broken), "span:{1..2}")
    assert done.returncode == 126
    assert done.stderr.count("can't be started: Exec format error") == 2


def test_parallel_runs_meet_and_print_in_one_piece(tmp_path: Path) -> None:
    script = (
        "echo first $0; touch $0; i=0; while [ $(ls | wc -l) -lt 3 ] && [ $i -lt 400 ]; do sleep 0.05; "
        "i=$((i+1)); done; echo second $0; echo problem $0 >&2; read nothing || echo no input $0"
    )
    done = run("--parallel", "3", "sh", "-c", script, "span:{1..3}", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    groups = [lines[at : at + 3] for at in (0, 3, 6)]
    assert sorted(groups) == [[f"first {n}", f"second {n}", f"no input {n}"] for n in "123"]
    assert sorted(line for line in done.stderr.splitlines() if line.startswith("problem")) == [
        f"problem {n}" for n in "123"
    ]


def test_no_more_at_a_time_than_asked_for(tmp_path: Path) -> None:
    script = "touch here.$0; ls -d here.* | wc -l; sleep 0.1; rm here.$0"
    done = run("--parallel=2", "sh", "-c", script, "span:{1..6}", cwd=tmp_path)
    assert {int(line) for line in done.stdout.split()} <= {1, 2}
    assert len(done.stdout.split()) == 6


def test_parallel_without_a_number_leaves_the_next_word_to_the_target() -> None:
    given, command = hakurun.options(["--parallel", "nproc", "4"])
    assert (given.parallel, command) == (len(os.sched_getaffinity(0)), ["nproc", "4"])
    assert hakurun.options(["--parallel", "4", "true"])[0].parallel == 4
    assert hakurun.options(["--", "--dry-run"])[1] == ["--dry-run"]


def test_nobody_reads_any_more() -> None:
    line = f"{HAKURUN} --parallel 2 sh -c 'yes | head -c 200000; exec sleep 0.$0' span:{{1..8}} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (141, "y")
    assert "Traceback" not in done.stderr


def _started(folder: Path, words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([HAKURUN, *words], cwd=folder, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    until(lambda: len(list(folder.glob("pid.*"))) == 2, "both runs have begun", seconds=30)
    assert isinstance(process, subprocess.Popen)
    return process


def _pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in until(lambda: _written(folder), "pids are written")]


def _written(folder: Path) -> list[Path]:
    files = list(folder.glob("pid.*"))
    return files if all(path.read_text().strip() for path in files) else []


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


_SLEEP = "echo $$ > pid.$0; exec sleep 300"


def test_control_c_on_a_terminal_ends_all_runs_and_starts_no_other(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    words = ["--parallel", "2", "sh", "-c", _SLEEP, "span:{1..4}"]
    process = _started(
        tmp_path, words, stderr=subprocess.DEVNULL, preexec_fn=lambda: os.login_tty(os.dup(slave))
    )
    pids = _pids(tmp_path)
    os.write(master, b"\x03")
    assert process.wait(30) == 130
    assert all(map(_gone, pids))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pid.1", "pid.2"]
    os.close(master)
    os.close(slave)


def test_term_ends_all_runs(tmp_path: Path) -> None:
    words = ["--parallel", "2", "sh", "-c", _SLEEP, "span:{1..4}"]
    process = _started(tmp_path, words, stderr=subprocess.PIPE)
    pids = _pids(tmp_path)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert all(map(_gone, pids))
    assert b"[1/4] killed by SIGTERM (15)" in said
    assert b"4 runs: 0 ok, 2 failed (1, 2), 2 not run" in said


def test_those_that_do_not_listen_are_killed_when_asked_again(tmp_path: Path) -> None:
    deaf = "trap '' INT TERM; echo $$ > pid.$0; while :; do sleep 0.05; done"
    process = _started(tmp_path, ["--parallel", "2", "sh", "-c", deaf, "span:{1..2}"], stderr=subprocess.PIPE)
    pids = _pids(tmp_path)
    assert process.stderr is not None
    for said in (b"interrupted: 2 runs may finish", b"ending 2 runs"):
        process.send_signal(signal.SIGINT)
        while said not in process.stderr.readline():
            assert process.poll() is None
        assert not any(map(_gone, pids))
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(map(_gone, pids))
    assert rest.count(b"killed by SIGKILL (9)") == 2


def test_it_is_one_file_with_the_grammar_for_any_python_since_3_8() -> None:
    program = "import sys, hakuriver.cli.hakurun; print(*sorted(m for m in sys.modules if 'haku' in m))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == [
        "hakuriver",
        "hakuriver.cli",
        "hakuriver.cli.hakurun",
        "hakuriver.errors",
        "hakuriver.sweep",
    ]
    for module in (hakurun, sweep, sys.modules[UsageError.__module__]):
        assert module.__file__
        ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
