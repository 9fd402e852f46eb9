"""What reaches an emulator of what a program writes, and what its input has to know."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.terminal.stream import Modes, Mouse, Stream

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"\x1b",
                b"\x1b[",
                b"\x1b]",
                b"\x1bP",
                b"\x1b_",
                b"\x1b\\",
                b"\x07",
                b"\x18",
                b";",
                b"?",
                b"2004",
                b"h",
                b"1049",
                b"l",
                b"t",
                b"c",
                b"0;title",
                b"52;c;aGk=",
                b"\xc2",
                b"\x9b",
                b"\xe4\xb8\x96",
                b"text",
                b"m",
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (b"text \xe4\xb8\x96\r\n", b"text \xe4\xb8\x96\r\n"),
        (b"\x1b[1;31mred\x1b[0m\x1b[38:2::1:2:3m", b"\x1b[1;31mred\x1b[0m\x1b[38:2::1:2:3m"),
        (
            b"\x1b[2J\x1b[H\x1b[3;4H\x1b[2;5r\x1b(0\x1b7\x1b8\x1bM",
            b"\x1b[2J\x1b[H\x1b[3;4H\x1b[2;5r\x1b(0\x1b7\x1b8\x1bM",
        ),
        (b"\x1b]52;c;aGVsbG8=\x07a", b"a"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", b"link"),
        (b"\x1bPq#0;2;0;0;0\x1b\\a\x1b_Gf=100;AAAA\x1b\\b\x1b^x\x1b\\c\x1bXy\x1b\\d", b"abcd"),
        (b"\x1b]0;cut off\x1b[1mbold", b"\x1b[1mbold"),
        (b"\x1b]0;given up\x18on", b"on"),
        (b"a\x1b[8;99;99tb\x1b[21tc", b"abc"),
        (b"a\x1b[5ib\x1b[?2lc\x1b[3hd\x1b[4he\x1b[12lf", b"abcd\x1b[4hef"),
        (b"a\x1b[>1ub\x1b[?uc\x1b[>4;2md", b"abcd"),
        (b"\x1b[c\x1b[>c\x1b[6n\x1b[5n", b"\x1b[c\x1b[>c\x1b[6n\x1b[5n"),
        (b"\x1b[?1049;1;25h\x1b[?12;2026h", b"\x1b[?1049;25h"),
        (b"a\xc2\x9b31mb\xc2\xa0", b"a31mb\xc2\xa0"),
        (b"a\x1b#3b\x1b#8\x1b%@c\x1b Fd", b"ab\x1b#8cd"),
        (b"a\x1b[1\n2mb", b"a\n2mb"),
        (b"a\x1b[" + b"1;" * 500 + b"mb", b"ab"),
    ],
)
def test_what_is_left(written: bytes, left: bytes) -> None:
    assert Stream().feed(written) == left


def test_titles_are_text() -> None:
    stream = Stream()
    stream.feed(b"\x1b]0;vim \xe4\xb8\x96 [/oops]\x07")
    assert stream.title == "vim 世 [/oops]"
    stream.feed(b"\x1b]2;a\nb\xe2\x80\xae" + b"x" * 100_000 + b"\x07")
    assert stream.title.startswith("a␊bxxx") and len(stream.title) <= 201
    stream.feed(b"\x1b]1;icon\x07\x1b]7;file://x\x07")
    assert stream.title.startswith("a␊b")


def test_a_string_that_never_ends_costs_nothing() -> None:
    stream = Stream()
    assert stream.feed(b"\x1bPq") + b"".join(stream.feed(b"x" * 65536) for _ in range(50)) == b""
    assert stream._string is not None and len(stream._string) <= 4096
    assert stream.feed(b"\x1b\\back") == b"back"


def test_colours_are_told_to_who_asks() -> None:
    stream = Stream((1, 2, 255), (16, 0, 0))
    assert stream.feed(b"\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]11;#fff\x07") == b""
    assert stream.answers() == b"\x1b]10;rgb:0101/0202/ffff\x1b\\\x1b]11;rgb:1010/0000/0000\x1b\\"
    assert stream.answers() == b""


def test_modes_of_the_input() -> None:
    stream = Stream()
    stream.feed(b"\x1b[?1h\x1b[?2004h\x1b[?1002;1006h\x1b[?1004h\x1b[?1049h\x1b[?1007l")
    assert stream.modes == Modes(
        application_cursor=True,
        bracketed_paste=True,
        focus_events=True,
        alternate_screen=True,
        wheel_as_arrows=False,
        mouse=Mouse.DRAGS,
        mouse_sgr=True,
    )
    stream.feed(b"\x1b[?1002l\x1b[!p")
    assert stream.modes.mouse is Mouse.OFF and not stream.modes.application_cursor
    stream.feed(b"\x1bc")
    assert stream.modes == Modes()


@given(PIECES, st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=200)
def test_it_does_not_matter_where_the_bytes_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    whole, cut = Stream(), Stream()
    edges = sorted({0, len(data), *(at for at in cuts if at < len(data))})
    left = b"".join(cut.feed(data[a:b]) for a, b in pairwise(edges))
    assert left == whole.feed(data)
    assert (cut.modes, cut.title, cut.answers()) == (whole.modes, whole.title, whole.answers())


@given(PIECES)
@settings(max_examples=200)
def test_nothing_that_reaches_past_the_cells_is_left(pieces: list[bytes]) -> None:
    left = Stream().feed(b"".join(pieces))
    assert not re.search(rb"\x1b[\]PX^_]|\x1b\[[0-?]*[ -/]*[it]|\xc2[\x80-\x9f]", left)
