"""hakurun as one file, for containers and for nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from daemons.runner import tools


def test_the_tool_is_one_file_that_needs_no_installation(tmp_path: Path) -> None:
    path = tools.install(tmp_path / "bin")
    assert path.stat().st_mode & 0o777 == 0o755
    before = path.stat().st_ino
    assert tools.install(tmp_path / "bin").stat().st_ino == before, "the same is left alone"
    done = subprocess.run(
        [path, "echo", "span:{1..3}"],
        check=False,
        env={"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "PYTHONNOUSERSITE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {"1", "2", "3"} <= set(done.stdout.split())


def test_an_old_python_says_so(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    code = "import runpy, sys; sys.version_info = (3, 7, 1); sys.argv = sys.argv[1:]"
    code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    path = tools.install(tmp_path / "bin")
    done = subprocess.run(
        [path], check=False, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "hakurun: this is Python 3.7; it needs 3.8 or later\n"
