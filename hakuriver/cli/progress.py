"""How far the host is with something that takes long: read, shown, left to it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from hakuriver import units
from hakuriver.cli import output
from hakuriver.cli.context import Context
from hakuriver.errors import HakuRiverError, Unreachable, from_json

SILENCE = 60.0
"""Seconds between two lines (the host says something every few); the host checks a whole upload meanwhile."""
_REDRAW = 0.1


def sentence(work: dict[str, Any]) -> str:
    """``packing: 1.2G of 5G, 430M/s``."""
    text = str(work["text"])
    if work["done"]:
        of = f" of {units.format_size(work['total'])}" if work["total"] else ""
        text += f": {units.format_size(work['done'])}{of}"
        if work["speed"]:
            text += f", {units.format_size(int(work['speed']))}/s"
    return text


class Progress:
    """How far things are: one line that changes on a terminal, a line for each stage elsewhere."""

    def __init__(self, context: Context) -> None:
        self._live = sys.stderr.isatty() and not context.json and os.environ.get("TERM") != "dumb"
        self._silent = context.json or context.quiet
        self._drawn = 0
        self._last = ""
        self._at = 0.0

    def show(self, work: dict[str, Any], node: str | None = None) -> None:
        where = f"{node}: " if node else ""
        if self._silent:
            return
        if self._live:
            if time.monotonic() - self._at >= _REDRAW:
                self._at = time.monotonic()
                self._draw(f"{where}{sentence(work)}")
        elif (stage := f"{where}{work['text']}") != self._last:
            self._last = stage
            output.say(stage)

    def clear(self) -> None:
        """Nothing of it stays on the screen."""
        if self._drawn:
            self._draw("")
            sys.stderr.write("\r")
            sys.stderr.flush()
            self._drawn = 0

    def _draw(self, text: str) -> None:
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        except OSError:
            width = 79
        shown = output.clean(text)[: max(10, width)]
        sys.stderr.write(f"\r{shown.ljust(self._drawn)}")
        sys.stderr.flush()
        self._drawn = len(shown)


def lines(response: Any) -> Iterator[dict[str, Any]]:
    """The lines of an answer; raises the error that the host ends with."""
    for line in response:
        found = json.loads(line)
        if isinstance(found, dict):
            yield found


def follow(
    context: Context, route_path: str, body: object, *, query: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ask for something that takes long, show how far it is, and return its last line.

    Ctrl-C leaves it to the host, which goes on.
    """
    progress = Progress(context)
    try:
        with context.client().open("POST", route_path, query=query, body=body, timeout=SILENCE) as response:
            for line in lines(response):
                if line["type"] == "done":
                    return line
                if line["type"] == "error":
                    raise error_of(line)
                progress.show(line["work"])
    except KeyboardInterrupt:
        progress.clear()
        output.say("the host goes on with it; hakuriver env list shows how far it is")
        raise
    finally:
        progress.clear()
    raise broken_off()


def broken_off() -> Unreachable:
    """The host ended its answer before it was done: it was stopped or killed."""
    return Unreachable(
        "the host ended its answer early", hint="hakuriver env list shows what became of it once it is back"
    )


def error_of(line: dict[str, Any]) -> HakuRiverError:
    status = line["error"].get("status", 500)
    return from_json(status if isinstance(status, int) else 500, line)
