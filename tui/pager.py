"""A log in the pager of the user's choice: on a copy of it, with the whole terminal."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App

from tui.handover import NO_TERMINAL, hand_over, possible
from tui.log_reader import LogReader

MOST = 256 * 2**20
"""Bytes of a log that a copy has; the beginning of a longer one is left out."""


async def page(
    app: App[Any], reader: LogReader, off_loop: Callable[..., Awaitable[Any]], *, at_end: bool
) -> str:
    """Copy the stream as it is now and give the terminal to the pager; returns what is wrong, or nothing."""
    if not possible(app):
        return NO_TERMINAL
    copy = await off_loop(partial(tempfile.NamedTemporaryFile, prefix="hakuriver-", suffix=".log"))
    try:
        async for part in reader.whole(MOST):
            await off_loop(copy.write, part)
        await off_loop(copy.flush)
        return await _show(app, copy.name, at_end=at_end)
    finally:
        await off_loop(copy.close)


async def _show(app: App[Any], path: str, *, at_end: bool) -> str:
    wanted = os.environ.get("PAGER") or "less"
    try:
        argv = shlex.split(wanted)
        if Path(argv[0]).name == "less":
            argv += ["-R", *(["+G"] if at_end else [])]
    except (ValueError, IndexError) as error:
        return f"PAGER={wanted}: {error}"
    wrong = await hand_over(app, [*argv, path])
    return f"PAGER={wanted}: {wrong}" if wrong else ""
