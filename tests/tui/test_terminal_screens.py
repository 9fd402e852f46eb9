"""The emulator's screen is the one that tmux makes of the same bytes; and no bytes at all can do harm."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.color import Color
from rich.style import Style

from tui.terminal.bittty_term import make_emulator
from tui.terminal.emulator import HISTORY, Emulator
from tui.terminal.paint import line
from tui.terminal.paint import text as drawn_text

FIXTURES = Path(__file__).parent.parent / "fixtures" / "terminal"
TRUTH: dict[str, dict[str, Any]] = json.loads((FIXTURES / "truth.json").read_text())
KNOWN = {
    ("top", 5): "erasing to the end of a line that was just filled takes its last cell too, as in xterm",
    ("wide-edges", 7): "writing over the right half of a wide character erases the left one; tmux leaves it",
    ("wide-edges", 10): "deleting half of a wide character leaves a blank for the other; tmux deletes both",
}
"""Rows that differ from tmux's, and why they may."""
Cell = tuple[str, frozenset[str]]
BASE = Style(color="#d4d4d4", bgcolor="#101010")


def cells_of(emulator: Emulator, y: int) -> list[Cell]:
    return [(cell, described(style)) for cells, style in emulator.grid.row(y) for cell in cells]


def described(style: Style) -> frozenset[str]:
    """A style as the fixtures write it: what SGR would set."""
    on = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "reverse": "7", "strike": "9"}
    return frozenset(
        {code for name, code in on.items() if getattr(style, name)}
        | ({coded(style.color, 30)} if style.color else set())
        | ({coded(style.bgcolor, 40)} if style.bgcolor else set())
    )


def coded(color: Color, base: int) -> str:
    if color.number is None:
        assert color.triplet is not None
        return f"{base + 8};2;{color.triplet.red};{color.triplet.green};{color.triplet.blue}"
    if color.number < 16:
        return str(base + color.number + (52 if color.number >= 8 else 0))
    return f"{base + 8};5;{color.number}"


def shortest(code: str) -> str:
    """``48;5;1`` is ``41``."""
    ground, *rest = code.split(";")
    return coded(Color.from_ansi(int(rest[1])), int(ground) - 8) if rest[:1] == ["5"] else code


def expected(line: list[list[str]]) -> Iterator[Cell]:
    for text, style in line:
        codes = frozenset(map(shortest, (code for code in style.split() if code not in ("5", "8"))))
        cells: list[str] = []
        for character in text:
            if cell_len(character) == 0:
                at = -2 if cells[-1] == "" else -1
                cells[at] += character
            else:
                cells += [character, ""][: cell_len(character)]
        yield from ((cell, codes) for cell in cells)


def visible(cell: Cell) -> Cell:
    """A blank's colour and weight can't be seen, unless it is underlined or reversed."""
    text, codes = cell
    if text != " " or codes & {"4", "7", "9"}:
        return cell
    return text, frozenset(code for code in codes if code.startswith(("4", "10")) and len(code) > 1)


@pytest.mark.parametrize("portion", [1 << 20, 61, 1], ids=["whole", "61 bytes", "byte by byte"])
@pytest.mark.parametrize("name", TRUTH)
def test_recordings_look_as_in_tmux(name: str, portion: int) -> None:
    known = TRUTH[name]
    columns, rows = known["size"]
    emulator = make_emulator(rows, columns)
    raw = (FIXTURES / f"{name}.raw").read_bytes()
    for at in range(0, len(raw), portion):
        emulator.feed(raw[at : at + portion])
    for y in range(rows):
        found, wanted = cells_of(emulator, y), list(expected(known["lines"][y]))
        assert len(found) == columns
        text = "".join(cell for cell, _ in found).rstrip()
        differs = text != "".join(cell for cell, _ in wanted).rstrip()
        # tmux doesn't tell the background of cells behind the last that was written
        differs |= any(visible(a) != visible(b) for a, b in zip(found, wanted, strict=False))
        assert differs == ((name, y) in KNOWN), (y, found, wanted)
    if emulator.grid.cursor() is not None:
        x, y = known["cursor"]
        assert emulator.grid.cursor() == (min(x, columns - 1), y)
    assert emulator.modes.alternate_screen == known["alternate"]


def test_the_pinned_library_is_the_one_we_tested() -> None:
    assert version("bittty") == "0.3.0"


def test_what_is_recorded_is_what_the_script_records() -> None:
    assert {path.stem for path in FIXTURES.glob("*.raw")} == set(TRUTH)
    assert all(path.stat().st_size < 60_000 for path in FIXTURES.iterdir())


def shown(emulator: Emulator) -> list[str]:
    return [line(emulator.grid.row(y), emulator.columns, BASE).text.rstrip() for y in range(emulator.rows)]


def test_history() -> None:
    emulator = make_emulator(5, 20)
    emulator.feed(b"".join(b"line %d\r\n" % i for i in range(4000)) + b"prompt")
    grid = emulator.grid
    assert shown(emulator) == ["line 3996", "line 3997", "line 3998", "line 3999", "prompt"]
    assert grid.history() == HISTORY and grid.scrolled() == 3996
    assert "".join(grid.row(-1)[0][0]).rstrip() == "line 3995"
    assert "".join(grid.row(-HISTORY)[0][0]).rstrip() == "line 996"


def test_history_is_wrapped_at_the_width_of_the_screen() -> None:
    emulator = make_emulator(2, 10)
    emulator.feed(b"0123456789abcdef\r\n\r\n\r\nend")
    assert [text(emulator, y) for y in (-3, -2, -1)] == ["0123456789", "abcdef", ""]
    emulator.resize(2, 20)
    assert [text(emulator, y) for y in (-2, -1)] == ["0123456789abcdef", ""]
    emulator.resize(2, 8)
    assert [text(emulator, y) for y in (-3, -2, -1)] == ["01234567", "89abcdef", ""]


def text(emulator: Emulator, y: int) -> str:
    return "".join(cell for cells, _ in emulator.grid.row(y) for cell in cells).rstrip()


def test_only_rows_that_changed_are_dirty() -> None:
    emulator = make_emulator(10, 20)
    assert set(emulator.grid.dirty()) == set(range(10))
    assert set(emulator.grid.dirty()) == set()
    emulator.feed(b"\x1b[4;1Hx\x1b[8;1Hy")
    assert set(emulator.grid.dirty()) == {3, 7}
    emulator.feed(b"\x1b[?1049h")
    assert set(emulator.grid.dirty()) == set(range(10))


def test_questions_are_answered() -> None:
    emulator = make_emulator(10, 20)
    assert emulator.feed(b"\x1b[5;7H\x1b[6n") == b"\x1b[5;7R"
    assert emulator.feed(b"\x1b[c") == b"\x1b[?62;22c"
    assert emulator.feed(b"\x1b[>c\x1b[5n") == b"\x1b[>41;330;0c\x1b[0n"
    assert emulator.feed(b"\x1b[21t\x1bP$qm\x1b\\\x1b[?u\x1b[>q") == b""


FLOODS = st.lists(
    st.one_of(
        st.integers(20, 300).map(lambda count: b"".join(b"line %d\r\n" % n for n in range(count))),
        st.integers(20, 90).map(lambda count: b"y\r\n" * 100 + b"z" * count + b"\r\n" + b"\r\n" * 200),
        st.sampled_from(
            [
                b"\x1b[31m",
                b"\x1b[44m",
                b"\x1b[m",
                b"\x1b[2;4r",
                b"\x1b[r",
                b"\x1b[?1049h",
                b"\x1b[?1049l",
                b"\x1b[4h",
            ]
        ),
        st.sampled_from(
            [b"\x1b[H", b"\x1b[9;1H", b"\x0e", b"\x1b)0", b"\x0f", b"\xe4\xb8", b"part", b"\x1b[3", b"\x1bN"]
        ),
        st.sampled_from([b"\x1b[2J", b"\x1b[9;1H\x1b[41m\x1b[K\x1b[m", b"w" * 70, b"\x1b[?7l", b"\x1b[?5h"]),
    ),
    min_size=1,
    max_size=6,
)


def trimmed(cells: list[Cell]) -> list[Cell]:
    while cells and cells[-1] == (" ", frozenset()):
        cells.pop()
    return cells


FULL = b"".join(b"%d\r\n" % n for n in range(30))


@pytest.mark.parametrize(
    "before",
    [
        FULL,
        FULL + b"\x1b[31m",
        FULL + b"\x1b[44m",
        FULL + b"\x1b(0",
        FULL + b"\x1b)0\x0e",
        FULL + b"\x1b[4h",
        FULL + b"\x1b[3r\x1b[9;1H",
        FULL + b"\x1b[2;4r\x1b[9;1H",
        FULL + b"\x1b[2;4r\x1b[3;1H",
        FULL + b"\x1b[9;20Hin the way\x1b[8;1H",
        FULL + b"\x1b[1;1H",
        b"\x1b[?1049h" + FULL,
        b"\x1b[7l" + b"long " * 30,
        b"text cut in \xe4\xb8",
    ],
)
def test_what_makes_a_difference_to_a_flood(before: bytes) -> None:
    slow, fast = make_emulator(9, 30), make_emulator(9, 30)
    flood = b"".join(b"lqk %d\r\n" % n for n in range(200))
    for at in range(0, len(before + flood), 50):
        slow.feed((before + flood)[at : at + 50])
    fast.feed(before)
    fast.feed(flood)
    assert [fast.grid.row(y) for y in range(9)] == [slow.grid.row(y) for y in range(9)]
    assert fast.grid.scrolled() == slow.grid.scrolled()
    for y in range(-slow.grid.history(), 0):
        assert trimmed(cells_of(fast, y)) == trimmed(cells_of(slow, y))


@given(FLOODS, st.sampled_from([(1, 30), (2, 30), (9, 30), (9, 80)]))
@settings(max_examples=60, deadline=None)
def test_floods_end_as_if_they_came_byte_by_byte(pieces: list[bytes], size: tuple[int, int]) -> None:
    data = b"".join(pieces)
    slow, fast = make_emulator(*size), make_emulator(*size)
    for at in range(0, len(data), 50):
        slow.feed(data[at : at + 50])
    fast.feed(data)
    assert [fast.grid.row(y) for y in range(size[0])] == [slow.grid.row(y) for y in range(size[0])]
    for grid in (slow.grid, fast.grid):
        grid.dirty()
    assert (fast.grid.cursor(), fast.grid.history(), fast.grid.scrolled()) == (
        slow.grid.cursor(),
        slow.grid.history(),
        slow.grid.scrolled(),
    )
    oldest = -slow.grid.history()
    for y in {*range(oldest, min(oldest + 20, 0)), *range(max(oldest, -20), 0)}:
        assert trimmed(cells_of(fast, y)) == trimmed(cells_of(slow, y))
    for emulator in (slow, fast):
        emulator.feed("\u0301x\x1b[3b\x1b[6n\r\nend".encode())
    assert [fast.grid.row(y) for y in range(size[0])] == [slow.grid.row(y) for y in range(size[0])]


class Broken:
    """A grid whose library has a bug: nothing but its creation works twice."""

    made = 0

    def __init__(self, rows: int, columns: int) -> None:
        Broken.made += 1

    def __getattr__(self, name: str) -> Any:
        if name == "answers":
            return lambda: b""
        raise IndexError(name)


def test_a_bug_of_the_library_costs_a_screen_not_the_program() -> None:
    emulator = Emulator(5, 20, Broken)
    emulator.feed(b"x")
    emulator.resize(6, 20)
    assert Broken.made == 3


ESCAPES = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "ignore")),
    st.sampled_from(
        [b"\x1b", b"\x1b[", b"\r\n", b"\t", b"\x0e", b"\x1b(0", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1bc"]
    ),
    st.sampled_from(
        ["世".encode(), "e\u0301".encode(), "👩‍💻".encode(), "\u202e\u200b".encode(), b"\x1b[2;4r", b"\x1b#8"]
    ),
    st.builds(
        lambda numbers, final: b"\x1b[" + b";".join(b"%d" % n for n in numbers) + final,
        st.lists(st.integers(0, 70000), max_size=3),
        st.sampled_from([bytes([code]) for code in range(0x40, 0x7F)]),
    ),
)


@given(
    st.lists(ESCAPES, max_size=40),
    st.sampled_from([(1, 1), (2, 3), (6, 20)]),
    st.sampled_from([(1, 1), (5, 30)]),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_do_harm(pieces: list[bytes], size: tuple[int, int], then: tuple[int, int]) -> None:
    """Nothing is raised, every line has the width of the screen, and no control character is in any."""
    emulator = make_emulator(*size)
    grid = emulator.grid
    half = len(pieces) // 2
    for part, wanted in ((pieces[:half], size), (pieces[half:], then)):
        emulator.resize(*wanted)
        emulator.feed(b"".join(part))
        cursor = grid.cursor()
        assert cursor is None or (cursor[0] < emulator.columns and cursor[1] < emulator.rows)
        for y in range(-min(grid.history(), 3), emulator.rows):
            strip = line(grid.row(y), emulator.columns, BASE, cursor=None if cursor is None else cursor[0])
            assert strip.cell_length == sum(cell_len(segment.text) for segment in strip) == emulator.columns
            assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in strip.text), strip.text
    assert emulator.grid is grid, "the library failed"


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (["a", "\x1b", "b"], "a b"),
        (["a", "\x9b", "b"], "a b"),
        (["\u00ad", "\ue000"], "\ufffd\ufffd"),
        (["\u202e", "\u200b", "x"], "  x"),
        (["世", "", "x"], "世x"),
        (["世", "x"], "\ufffdx"),
        (["", "x"], " x"),
        (["x", ""], "x "),
        (["e\u0301" + "\u0302" * 50], "e\u0301\u0302\u0302\u0302"),
        (["👩\u200d💻", ""], "👩"),
        (["❤\ufe0f", ""], "❤ "),
    ],
)
def test_cells_as_text(cells: list[str], shown: str) -> None:
    assert drawn_text(cells) == shown and cell_len(shown) == len(cells)


def test_the_cursor_is_drawn_on_whole_characters() -> None:
    emulator = make_emulator(1, 10)
    emulator.feed("a世b\x1b[7mc".encode())
    for column, under, inverted in (
        (0, "a", True),
        (1, "世", True),
        (2, "世", True),
        (3, "b", True),
        (4, "c", False),
    ):
        strip = line(emulator.grid.row(0), 10, BASE, cursor=column)
        marked = [segment for segment in strip if segment.text == under]
        assert len(marked) == 1 and marked[0].style is not None and marked[0].style.reverse is inverted
        assert strip.text == "a世bc" + " " * 5
