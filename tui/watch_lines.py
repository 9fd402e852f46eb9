"""Lines of the watch stream → objects. A large one is taken apart in slices, so that no step takes long.

The JSON library holds the interpreter's lock for a whole document: a snapshot of 100 000 tasks, decoded at
once, would stand still even an event loop in another thread.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hakuriver.errors import HakuRiverError

LARGE = 256 * 1024
"""Bytes from which a line is worth a thread."""
_SLICE = 64 * 1024
_NEXT = re.compile(rb"\}\s*,(?=\s*\{)")
"""Between two objects of an array; the end of an object inside one has a name behind it."""
_MEMBER = re.compile(rb'\s*"([A-Za-z0-9_]*)"\s*:\s*')
_COMMA = re.compile(rb"\s*(,|\})\s*")
_DECODER = json.JSONDecoder()


class BadLine(HakuRiverError):
    """The host said something that is no watch line."""

    code = "bad_watch_line"


def decode(line: bytes, slice_size: int = _SLICE) -> object:
    """One NDJSON line; raises BadLine."""
    try:
        return _sliced(line, slice_size) if len(line) > slice_size else json.loads(line)
    except ValueError as error:
        raise BadLine("the host's stream holds a line that is no JSON") from error


def _sliced(line: bytes, slice_size: int) -> object:
    """An object whose members of arrays of objects are decoded a slice at a time."""
    if not line.startswith(b"{"):
        return json.loads(line)
    found: dict[str, Any] = {}
    at = 1
    while (member := _MEMBER.match(line, at)) is not None:
        at = member.end()
        if line[at : at + 1] == b"[":
            value, at = _array(line, at + 1, slice_size)
        else:
            value, at = _value(line, at)
        found[member[1].decode()] = value
        after = _COMMA.match(line, at)
        if after is None:
            break
        at = after.end()
        if after[1] == b"}":
            if line[at:].strip():
                break
            return found
    return json.loads(line)  # written in a way that we don't expect, or wrong: it says which


def _array(line: bytes, at: int, slice_size: int) -> tuple[list[Any], int]:
    """The array whose bracket stands before ``at``, and the place behind it.

    A slice ends where an element may: behind ``}``, before a comma and the next ``{``. When it doesn't
    decode, that was inside an element or a text, and a longer one is tried; when it does, nothing else was
    possible.
    """
    found: list[Any] = []
    step = slice_size
    while True:
        border = _NEXT.search(line, at + step)
        end = border.start() + 1 if border else len(line)
        text = f"[{line[at:end].decode()}]"
        try:
            values, length = _DECODER.raw_decode(text)
        except ValueError:
            if border is None:
                raise
            step *= 2
            continue
        found += values
        if length < len(text):  # the array's own bracket came first
            return found, at + len(text[1:length].encode())
        if border is None:
            raise ValueError("an array has no end")
        at, step = border.end(), slice_size


def _value(line: bytes, at: int) -> tuple[Any, int]:
    size = 4096
    while True:
        text = line[at : at + size].decode("utf-8", "ignore")
        try:
            value, length = _DECODER.raw_decode(text)
        except ValueError:
            if at + size >= len(line):
                raise
        else:
            if length < len(text) or at + size >= len(line):
                return value, at + len(text[:length].encode())
        size *= 4
