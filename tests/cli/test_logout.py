"""Machines that end a user's processes at logout are told from others."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from hakuriver.cli.logout import WARNING, ends_at_logout, warning

SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
V1 = "12:pids:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-c2.scope/x\n0::/\n"
SCOPE = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n"
KILLS = "KillUserProcesses=yes\nKillOnlyUsers=\nKillExcludeUsers=root\n"


@pytest.mark.parametrize(
    ("cgroup", "manager", "user", "ends"),
    [
        (SESSION, KILLS, "ann", True),
        (V1, KILLS, "ann", True),
        (SCOPE, KILLS, "ann", False),
        (SESSION, KILLS, "root", False),
        (SESSION, KILLS.replace("yes", "no"), "ann", False),
        (SESSION, KILLS.replace("OnlyUsers=", "OnlyUsers=bob"), "ann", False),
        (SESSION, KILLS.replace("OnlyUsers=", "OnlyUsers=bob ann"), "ann", True),
        (SESSION, "", "ann", False),
    ],
)
def test_only_what_ends_is_warned_of(cgroup: str, manager: str, user: str, ends: bool) -> None:
    assert ends_at_logout(cgroup, manager, user) is ends


@pytest.mark.parametrize("answer", ["yes", "no", None])
def test_logind_is_asked(tmp_path: Path, answer: str | None) -> None:
    group = tmp_path / "cgroup"
    group.write_text(SESSION)
    if answer is not None:
        ask = tmp_path / "loginctl"
        lines = f"KillUserProcesses={answer}\\nKillExcludeUsers=not-{getpass.getuser()}"
        ask.write_text(f"#!/bin/sh\n[ \"$1\" = show-user ] && printf '{lines}\\n'\n")
        ask.chmod(0o755)
    said = warning({"PATH": str(tmp_path)}, group)
    assert said == (WARNING if answer == "yes" else "")
    assert warning({"PATH": str(tmp_path)}, tmp_path / "nothing") == ""
