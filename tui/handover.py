"""The whole terminal for another program, and back to a screen that is drawn anew."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from textual.app import App, SuspendNotSupported

from hakuriver.endpoint import Endpoint
from tui.display.frame_diff import DiffedApp

NO_TERMINAL = "it needs a real terminal: there is none here"
_UNREAD = 15.0
"""Seconds; what fails sooner said why, and would be gone before anybody has read it."""
_WAIT = ("sh", "-c", "printf '\\nenter goes back '; read -r _")


def possible(app: App[Any]) -> bool:
    """Whether there is a terminal to give away: not in a browser, not in a test."""
    return not (app.is_web or app.is_headless)


async def hand_over(app: App[Any], argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Let a program have the terminal until it ends; returns why it can't, or nothing."""
    if not possible(app):
        return NO_TERMINAL
    # what ctrl+c means in there is its own affair, but it reaches us too
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        # without the batch, whatever is drawn meanwhile fills a queue that nobody empties, and all stops
        with app.batch_update(), app.suspend():
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(*argv, env=env)
            if await process.wait() and time.monotonic() - began < _UNREAD:
                await (await asyncio.create_subprocess_exec(*_WAIT)).wait()
    except SuspendNotSupported:
        return NO_TERMINAL
    except (OSError, ValueError, IndexError) as error:
        return str(error)
    finally:
        signal.signal(signal.SIGINT, before)
        if isinstance(app, DiffedApp):
            app.forget_frame()
    return ""


def cli(endpoint: Endpoint, *words: str) -> tuple[list[str], dict[str, str]]:
    """The argv of our own command line and its environment, for the cluster that we talk to."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HAKURIVER_")}
    if endpoint.state is not None:
        env["HAKURIVER_STATE_DIR"] = str(endpoint.state.root.parent)
    else:
        env |= {"HAKURIVER_HOST": endpoint.url, "HAKURIVER_TOKEN": endpoint.token}
    return [sys.executable, "-m", "hakuriver", *words], env
