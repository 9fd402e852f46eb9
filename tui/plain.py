"""Text from outside, made safe to draw: what it says is shown, what it could do to a terminal is not."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len, set_cell_size

ELLIPSIS = "…"
_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}
_HIDDEN = frozenset({"Cf", "Cs", "Cn"})
_REPLACED = frozenset({"Cc", "Co", "Zl", "Zp"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def clean(text: str, limit: int = 4096) -> str:
    """One line without control characters: an escape byte is shown as ␛, a line break as ␊.

    Format characters (bidirectional overrides, joiners, variation selectors) are dropped: they move or
    hide text in other columns, and terminals disagree about their width.
    """
    if len(text) > limit:
        text = text[:limit] + ELLIPSIS
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_cleaned, text))


@lru_cache(maxsize=4096)
def _cleaned(character: str) -> str:
    code = ord(character)
    if code in _CONTROL_PICTURES:
        return _CONTROL_PICTURES[code]
    category = unicodedata.category(character)
    if category in _HIDDEN or code in _VARIATION_SELECTORS:
        return ""
    return "\ufffd" if category in _REPLACED else character


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly ``width`` cells: cut with an ellipsis or padded, on the left when ``right``-aligned."""
    if width <= 0:
        return ""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + ELLIPSIS
    padding = " " * (width - length)
    return padding + text if right else text + padding
