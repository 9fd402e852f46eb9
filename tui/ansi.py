"""Log bytes → styled text: SGR colours are kept, every other escape sequence and control byte is dropped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise

from rich.color import Color
from rich.style import Style

_NULL = Style.null()
_SEQUENCE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]?"  # any other CSI
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|\Z)"  # OSC, DCS, SOS, PM, APC: up to their terminator
    r"|\x9b[0-?]*[ -/]*[@-~]?"
    r"|[\x90\x98\x9d\x9e\x9f].*?(?:\x07|\x1b\\|\x9c|\Z)"
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_ON = {"1": "bold", "2": "dim", "3": "italic", "4": "underline", "7": "reverse", "9": "strike"}
_OFF = {
    "22": "not bold not dim",
    "23": "not italic",
    "24": "not underline",
    "27": "not reverse",
    "29": "not strike",
}
_TAB = 8
Span = tuple[str, Style]


def visible(line: bytes) -> str:
    """What a terminal shows of one line after its carriage returns: the last thing written from column 0."""
    parts = line.rstrip(b"\r\n").split(b"\r")
    shown = next((part for part in reversed(parts) if part), b"")
    return shown.decode("utf-8", "replace")


def spans(text: str, style: Style = _NULL) -> list[Span]:
    """Runs of text with their style, which begins as ``style``; no control characters, no tabs in them."""
    if text.isascii() and text.isprintable():
        return [(text, style)] if text else []
    found: list[Span] = []
    position = column = 0
    for match in _SEQUENCE.finditer(text):
        column = _add(found, text[position : match.start()], style, column)
        position = match.end()
        if match["sgr"] is not None:
            style = _applied(style, match["sgr"])
    _add(found, text[position:], style, column)
    return found


def style_after(line: bytes, style: Style) -> Style:
    """The style that the next line begins with: colours last until somebody changes them."""
    if b"\x1b[" in line:
        for match in _SEQUENCE.finditer(line.decode("utf-8", "replace")):
            if match["sgr"] is not None:
                style = _applied(style, match["sgr"])
    return style


def highlighted(parts: list[Span], wanted: re.Pattern[bytes], mark: Style) -> list[Span]:
    """Spans with what matches a search marked."""
    text = "".join(part for part, _ in parts)
    encoded = text.encode("utf-8", "replace")
    edges = [
        tuple(len(encoded[:end].decode("utf-8", "replace")) for end in match.span())
        for match in wanted.finditer(encoded)
        if match.end() > match.start()
    ]
    found: list[Span] = []
    at = 0
    for part, style in parts:
        cuts = {at, at + len(part)} | {e for pair in edges for e in pair if at < e < at + len(part)}
        for start, end in pairwise(sorted(cuts)):
            hit = any(first <= start < last for first, last in edges)
            found.append((text[start:end], style + mark if hit else style))
        at += len(part)
    return found


def plain(text: str) -> str:
    """The text without any styling, for searching and copying."""
    return "".join(part for part, _ in spans(text))


def _add(found: list[Span], text: str, style: Style, column: int) -> int:
    parts: list[str] = []
    for character in text:
        if character == "\t":
            width = _TAB - column % _TAB
            parts.append(" " * width)
            column += width
        elif _shown(character):
            parts.append(character)
            column += 1
    if parts:
        found.append(("".join(parts), style))
    return column


@lru_cache(maxsize=4096)
def _shown(character: str) -> bool:
    return (
        unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
        and not 0xFE00 <= ord(character) <= 0xFE0F
    )


@lru_cache(maxsize=1024)
def _applied(style: Style, codes: str) -> Style:
    """The style after one SGR sequence; codes that nobody knows change nothing."""
    rest = iter(codes.replace(":", ";").split(";"))
    for code in rest:
        if code in ("", "0", "00"):
            style = _NULL
        elif (code := code.lstrip("0")) in _ON:
            style += Style.parse(_ON[code])
        elif code in _OFF:
            style += Style.parse(_OFF[code])
        elif code in ("38", "48"):
            style += _extended(rest, background=code == "48")
        elif code in ("39", "49"):
            style += Style(color="default") if code == "39" else Style(bgcolor="default")
        elif code.isdigit():
            style += _basic(int(code))
    return style


def _basic(code: int) -> Style:
    for first, offset in ((30, 0), (90, 8)):
        if first <= code < first + 8:
            return Style(color=Color.from_ansi(code - first + offset))
        if first + 10 <= code < first + 18:
            return Style(bgcolor=Color.from_ansi(code - first - 10 + offset))
    return _NULL


def _extended(rest: Iterator[str], *, background: bool) -> Style:
    kind = next(rest, "")
    numbers = _bytes(list(islice(rest, 3 if kind == "2" else 1))) if kind in ("2", "5") else []
    if kind == "5" and len(numbers) == 1:
        color = Color.from_ansi(numbers[0])
    elif kind == "2" and len(numbers) == 3:
        color = Color.from_rgb(*numbers)
    else:
        return _NULL
    return Style(bgcolor=color) if background else Style(color=color)


def _bytes(texts: Sequence[str]) -> list[int]:
    return [int(text) for text in texts if text.isdigit() and len(text) <= 3 and int(text) <= 255]
