"""A log in the pager of the user's choice: on a copy of it, with the whole terminal."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from tui.display.frame_diff import DiffedApp
from tui.log_reader import LogReader

MOST = 256 * 2**20
"""Bytes of a log that a copy has; the beginning of a longer one is left out."""
_NO_TERMINAL = "a pager needs a real terminal: there is none here"


async def page(
    app: App[Any], reader: LogReader, off_loop: Callable[..., Awaitable[Any]], *, at_end: bool
) -> str:
    """Copy the stream as it is now and give the terminal to the pager; returns what is wrong, or nothing."""
    if app.is_web or app.is_headless:
        return _NO_TERMINAL
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
    # what ctrl+c means in the pager is the pager's affair, but it reaches us too
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        argv = shlex.split(wanted)
        if Path(argv[0]).name == "less":
            argv += ["-R", *(["+G"] if at_end else [])]
        # without the batch, whatever is drawn meanwhile fills a queue that nobody empties, and all stops
        with app.batch_update(), app.suspend():
            process = await asyncio.create_subprocess_exec(*argv, path)
            await process.wait()
    except SuspendNotSupported:
        return _NO_TERMINAL
    except (OSError, ValueError, IndexError) as error:
        return f"PAGER={wanted}: {error}"
    finally:
        signal.signal(signal.SIGINT, before)
        if isinstance(app, DiffedApp):
            app.forget_frame()
    return ""
