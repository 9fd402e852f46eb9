"""Exit codes that no error of ``hakuriver.errors`` stands for."""

from __future__ import annotations

FAILED = 1
TIMED_OUT = 124
"""A wait took longer than it was given."""
OURS = 125
"""Of the commands that return a task's code: it was lost, or ended without one."""
INTERRUPTED = 130
CLOSED_PIPE = 141
"""Nobody reads our output any more: 128 + SIGPIPE, as of any program."""
