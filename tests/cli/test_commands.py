"""The command line itself: what is understood, what is refused and how."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli import commands, submit, submit_options, values
from hakuriver.cli.context import Context
from hakuriver.cli.main import main
from hakuriver.cli.parsing import Parser
from hakuriver.errors import UsageError
from hakuriver.wire import SubmitRequest

HEAVY = (
    "pydantic",
    "httpx",
    "textual",
    "docker",
    "sqlmodel",
    "sqlalchemy",
    "rich",
    "uvicorn",
    "starlette",
    "tomlkit",
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with no cluster and no config."""
    return {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HAKURIVER_STATE_DIR": str(tmp_path / "no"),
    }


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("tsak list", 2, "did you mean hakuriver task?"),
        ("task lst", 2, "did you mean hakuriver task list?"),
        ("submit", 2, "did you mean hakuriver task submit?"),
        ("task", 2, "needs a verb"),
        ("--nonsense", 2, "no option --nonsense"),
        ("task list --sate running", 2, "did you mean --state?"),
        ("task list --state runing", 2, "did you mean running?"),
        ("task list -n 0", 2, "at least 1"),
        ("task submit --memory 4X -- true", 2, "size '4X'"),
        ("task submit --cores many -- true", 2, "number of cores"),
        ("task submit --cores -- true", 2, "expected one argument"),
        ("task submit --executor podman -- true", 2, "known: process, docker, systemd"),
        ("task submit --env NOT_SET_HERE -- true", 2, "not set here"),
        ("task submit --env =x -- true", 2, "no name"),
        ("task submit --mount data:/x -- true", 2, "absolute"),
        ("task submit --mount /x -- true", 2, "can't be understood"),
        ("task submit python train.py --lr 0.1", 2, "put -- before the command: -- python train.py --lr 0.1"),
        ("task submit python -- train.py", 2, "stands before --"),
        ("run", 2, "there is no command"),
        ("run --", 2, "there is no command"),
        ("task list -- true", 2, "takes no command"),
        ("task submit --on-node-loss never -- true", 2, "known: keep, requeue, fail"),
        ("task submit --gpus :a100 -- true", 2, "is not a number of GPUs"),
        ("task submit --gpus many -- true", 2, "write 2 or 2:a100"),
        ("task submit --gpu-memory 24G -- true", 2, "about the GPUs of --gpus"),
        ("task submit --gpus 1 --target n1::0 -- true", 2, "--gpus picks free GPUs"),
        ("task submit --target n1::0,0 -- true --x", 5, "hakuriver up"),
        ("task submit --label room -- true", 2, "write KEY=VALUE"),
        ("task submit --label room=a/b\\c -- true", 2, "can't be understood"),
        ("task submit --placement packed -- true", 2, "did you mean pack?"),
        ("task submit --pin --cores 1.5 -- true", 2, "--pin gives whole cores"),
        ("task submit --pin --cores 0 -- true", 2, "--pin gives whole cores"),
        ("task submit --shm-size big -- true", 2, "size 'big'"),
        ("task submit --ulimit nofile -- true", 2, "write nofile=1024"),
        ("task submit --ulimit nofiles=5 -- true", 2, "did you mean nofile?"),
        ("task submit --ulimit nofile=9:5 -- true", 2, "above the hard one"),
        ("task submit --ulimit nofile=unlimited:5 -- true", 2, "above the hard one"),
        ("task submit --ulimit nofile=x -- true", 2, "'x' is not a whole number"),
        ("task submit --priority 1001 -- true", 2, "from -1000 to 1000"),
        ("task submit --priority high -- true", 2, "from -1000 to 1000"),
        ("task submit --time-limit 0 -- true", 2, "must be longer than 0"),
        ("task submit --time-limit soon -- true", 2, "write 90, 90s, 30m, 2h"),
        ("task submit --notice 60 -- true", 2, "before the end of --time-limit"),
        ("task submit --notice 60 --time-limit 60 -- true", 2, "longer than the notice"),
        ("task submit --notice KILL@60 --time-limit 2h -- true", 2, "unknown signal 'KILL'"),
        ("task submit --retries -1 -- true", 2, "from 0 to 100"),
        ("task submit --after x@y -- true", 2, "neither a task id nor a name"),
        ("task submit --max-running 2 -- true", 2, "--max-running is for many tasks"),
        ("task submit --sweep -- true", 2, "there is no span:"),
        ("task submit --sweep -- true span:{1..x}", 2, "from number to number"),
        ("task submit --sweep -- true span:{1..5000} span:{1..3}", 2, "= 15000 tasks, the most is 10000"),
        ("task submit --sweep --target a --target b -- true span:{1..9999}", 2, "= 19998 tasks"),
        ("run --sweep -- true span:{1..2}", 2, "has no option --sweep"),
        ("task kill", 2, "missing: ID"),
        ("task kill 5 --batch 5", 2, "give one of the two"),
        ("task show --batch 0", 2, "'0' is not a batch"),
        ("task hold", 2, "missing: ID"),
        ("task explain", 2, "missing: ID"),
        ("task hodl 5", 2, "did you mean hakuriver task hold?"),
        ("node drain", 2, "missing: NODE"),
        ("node drain n1 --raeson x", 2, "did you mean --reason?"),
        ("drain n1", 2, "did you mean hakuriver node drain?"),
        ("task requeue --force", 2, "missing: ID"),
        ("host --backup=", 2, "need the name of a file"),
        ("host --backup a --restore b", 2, "not allowed with"),
        ("task show 9-4", 2, "runs backwards"),
        ("nodes n1", 2, "does not expect 'n1'"),
        ("--state-dir= down --kill", 2, "empty value"),
        ("down --kill --state-dir=", 2, "empty value"),
        ("status --host http://x", 2, "without a credential"),
        ("runner --host nonsense", 2, "write http://ADDRESS:PORT"),
        ("--host http://x --state-dir /y status", 2, "two clusters"),
        ("status", 5, "hakuriver up"),
        ("", 5, "hakuriver up"),
        ("task list", 5, "hakuriver up"),
    ],
)
def test_refusals(
    line: str, code: int, says: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split(), environ) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert shown.err.startswith("hakuriver: ")
    assert len(shown.err.splitlines()) <= 2


@pytest.mark.parametrize("line", ["up --headless", "down", "status"])
def test_a_state_folder_that_can_not_be_is_one_clear_line(
    line: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), "--state-dir", f"/tmp/{'x' * 300}"], environ) == 2
    shown = capsys.readouterr().err
    assert "File name too long" in shown
    assert len(shown.splitlines()) <= 2


@pytest.mark.parametrize(
    "line", ["--json task show 5", "task --json show 5", "task show --json 5", "task show 5 --json"]
)
def test_json_errors_from_either_side(
    line: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split(), environ) == 5
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "no_cluster"
    assert set(error) == {"code", "message", "hint"}


def test_json_after_the_dashes_belongs_to_the_command(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--", "tool", "--json"], environ) == 5
    assert capsys.readouterr().err.startswith("hakuriver: ")


def test_json_by_variable(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tsak"], environ | {"HAKURIVER_JSON": "1"}) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def _request(
    arguments: list[str], command: tuple[str, ...] | None, environ: dict[str, str]
) -> dict[str, Any]:
    parser = Parser("task submit", "")
    submit_options.add(parser, many=True)
    return submit.request(parser.parse(arguments), Context(command=command, environ=environ))


def test_a_submission_is_what_was_typed() -> None:
    body = _request(
        [
            *["--target", "n1::0", "--target", "n2", "--cores", "2.5", "--memory", "4GiB"],
            *["--env", "A=1=2", "--env", "B", "--mount", "/a:/b:ro", "--tag", "x", "--tag", "y"],
            *["--name", "job", "--image", "py:3", "--privileged"],
        ],
        ("python", "-c", "print('a b')", "--", "--json"),
        {"B": "two", "PATH": "/bin", "SECRET": "no", "VIRTUAL_ENV": "/venv"},
    )
    assert body["command"] == ["python", "-c", "print('a b')", "--", "--json"]
    assert body["targets"] == ["n1::0", "n2"]
    assert (body["cores"], body["memory"]) == (2.5, 4 * 2**30)
    assert body["env"] == {"A": "1=2", "B": "two"}
    assert body["mounts"] == [{"source": "/a", "target": "/b", "read_only": True}]
    assert (body["tags"], body["name"], body["image"], body["privileged"]) == (
        ["x", "y"],
        "job",
        "py:3",
        True,
    )
    assert body["caller"] == {
        "workdir": str(Path.cwd()),
        "env": {"PATH": "/bin", "VIRTUAL_ENV": "/venv"},
        "user": f"{os.geteuid()}:{os.getegid()}",
    }


@pytest.mark.parametrize(
    ("arguments", "command", "says"),
    [
        ([], ("printf", "\udcff"), "command: '\\\\udcff' is not valid UTF-8"),
        (["--env", "A=\udcff"], ("true",), "env A: "),
        (["--env", "\udcff=A"], ("true",), "env name: "),
        (["--workdir", "/\udcff"], ("true",), "workdir: "),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_name(
    arguments: list[str], command: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        _request(arguments, command, {})


def test_a_task_never_runs_elsewhere_because_its_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="folder was removed"):
        _request([], ("true",), {})
    with pytest.raises(UsageError, match="folder was removed"):
        _request(["--workdir", "here"], ("true",), {})
    assert _request(["--workdir", "/tmp"], ("true",), {})["workdir"] == "/tmp"


def test_a_working_directory_is_read_as_a_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = _request(["--workdir", "../x/./y"], ("true",), {})
    assert body["workdir"] is None
    assert body["caller"]["workdir"] == str(tmp_path.parent / "x/y")
    assert body["caller"]["workdir_typed"] is True
    assert _request(["--workdir", "/x/./y"], ("true",), {})["workdir"] == "/x/y", "as the task sees it"


def test_wishes_are_what_was_typed() -> None:
    body = _request(
        [
            *["--gpus", "2:A100", "--gpu-memory", "40G", "--label", "room=b12", "--label", "fast="],
            *["--placement", "spread", "--cores", "4", "--pin", "--shm-size", "8GiB"],
            *["--ulimit", "nofile=1024:4096", "--ulimit", "memlock=unlimited", "--ulimit", "nproc=5:-1"],
            *["--priority", "-5", "--time-limit", "2h", "--notice", "sigterm@5m", "--retries", "3", "--hold"],
            *["--sweep", "--max-running", "4"],
        ],
        ("train", "--lr=span:[0.1,0.2]"),
        {},
    )
    assert {key: body[key] for key in body.keys() - _request([], ("true",), {}).keys()} == {
        "gpu_count": 2,
        "gpu_model": "A100",
        "gpu_memory": 40 * 10**9,
        "labels": {"room": "b12", "fast": ""},
        "placement": "spread",
        "pin": True,
        "shm_size": 8 * 2**30,
        "ulimits": {"nofile": [1024, 4096], "memlock": [-1, -1], "nproc": [5, -1]},
        "priority": -5,
        "time_limit": 7200.0,
        "notice": {"signal": 15, "seconds": 300.0},
        "retries": 3,
        "hold": True,
        "sweep": True,
        "max_running": 4,
    }
    assert body["command"] == ["train", "--lr=span:[0.1,0.2]"]  # the host makes the product
    accepted = SubmitRequest.model_validate_json(json.dumps(body))
    assert accepted.ulimits["nofile"] == (1024, 4096)


def test_a_notice_is_usr1_unless_it_says_otherwise() -> None:
    body = _request(["--time-limit", "1h", "--notice", "90"], ("true",), {})
    assert body["notice"] == {"signal": 10, "seconds": 90.0}
    assert values.format_notice(body["notice"]) == "USR1 1m30s before"


@given(st.text(max_size=12))
@pytest.mark.parametrize("parse", [values.gpus, values.label, values.ulimit, values.notice, values.mount])
def test_any_text_is_a_value_or_one_clear_error(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(UsageError, argparse.ArgumentTypeError):
        parse(text)


def test_what_is_not_said_is_left_to_the_host() -> None:
    body = _request([], ("true",), {})
    assert (body["cores"], body["memory"], body["mounts"], body["privileged"]) == (1.0, 0, None, None)
    assert (body["container"], body["executor"], body["workdir"], body["name"]) == (None, None, None, None)


def test_the_request_is_one_that_the_host_accepts() -> None:
    body = _request(["--mount", "/a:/b", "--env", "A=1"], ("true",), {"PATH": "/bin"})
    assert SubmitRequest.model_validate_json(json.dumps(body)).command == ["true"]


def test_a_plain_command_needs_no_dashes() -> None:
    assert _request(["--cores", "1", "echo", "hi"], None, {})["command"] == ["echo", "hi"]


@pytest.mark.parametrize("name", list(commands.rows()))
def test_every_command_has_short_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*name.split(), "--help"], {})
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert shown.startswith(f"usage: hakuriver {name}")
    assert len(shown.splitlines()) < 64


@pytest.mark.parametrize("group", sorted(commands.groups()))
def test_every_group_has_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group, "--help"], {}) == 0
    assert f"hakuriver {group} VERB" in capsys.readouterr().out


def test_unknown_verbs_never_get_through() -> None:
    with pytest.raises(UsageError):
        commands.resolve(["task", "explode"])


@pytest.mark.parametrize(
    "line",
    [
        "status",
        "task list",
        "task show 1",
        "task submit -- true",
        "run -- true",
        "nodes",
        "task kill 1",
        "task submit --sweep -- true span:{1..5}",
        "task explain 1",
        "node drain n1",
        "down",
    ],
)
def test_a_plain_command_imports_nothing_heavy(line: str, environ: dict[str, str]) -> None:
    program = (
        "import sys, os\n"
        "from hakuriver.cli.main import main\n"
        f"main({line.split()!r}, os.environ)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_starting_is_quick(environ: dict[str, str]) -> None:
    """Processor time against that of an empty Python, about 8 ms: one heavy library is twice ours."""

    def cost(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        argv = [sys.executable, *arguments]
        subprocess.run(argv, check=False, env=environ, capture_output=True, timeout=30)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    plain = min(cost("-c", "pass") for _ in range(5))
    ours = min(cost("-m", "hakuriver", "task", "list") for _ in range(5))
    print(f"task list costs {ours / plain:.1f} × an empty python")
    assert ours < 16 * plain
