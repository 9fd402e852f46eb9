"""Reading the kernel's small files."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """A file's text without its last newline; empty when it can't be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def parse_list(text: str) -> list[int]:
    """The kernel's lists: ``0-3,8,10-11``; raises ValueError."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def numbers(path: Path) -> list[int] | None:
    """A list in a file; None when there is none."""
    try:
        return parse_list(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
