"""What is printed: harmless on a terminal, raw in a pipe, ids whole."""

from __future__ import annotations

import io
import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli import output
from hakuriver.cli.follow import Chunk
from hakuriver.cli.output import Cell, Column, LogCleaner, clean, fitting
from hakuriver.cli.sink import Sink


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("\x9b2Jx", "x"),
        ("bell\x07 back\x08 nul\x00 del\x7f", "bell back nul del"),
        ("two\nlines\tand\rmore", "two lines and more"),
        ("\x1b[", "["),
        ("right\u202eleft", "rightleft"),
        ("naïve 日本", "naïve 日本"),
    ],
)
def test_clean(dirty: str, expected: str) -> None:
    assert clean(dirty) == expected


@given(st.text())
def test_clean_leaves_no_control_character(text: str) -> None:
    assert all(unicodedata.category(char) != "Cc" for char in clean(text))


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_log_cleaner_doesnt_depend_on_where_chunks_end(data: bytes, cuts: list[int]) -> None:
    whole = LogCleaner().feed(data, final=True)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    cleaner = LogCleaner()
    pieces = [cleaner.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    joined = "".join(pieces) + cleaner.feed(b"", final=True)
    assert joined == whole
    assert all(char in "\n\r\t" or unicodedata.category(char) != "Cc" for char in joined)


def test_log_cleaner_waits_for_the_end_of_a_sequence() -> None:
    cleaner = LogCleaner()
    assert cleaner.feed(b"a\x1b[3") + cleaner.feed(b"1mred\xe2\x82") + cleaner.feed(b"\xac") == "ared€"


def test_a_pipe_gets_aligned_whole_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(
        [Column("ID", right=True), Column("COMMAND")], [["7", "echo hi"], [Cell("1234567", "red"), ""]]
    )
    assert capsys.readouterr().out == "     ID  COMMAND\n      7  echo hi\n1234567  -\n"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_never_cuts_ids(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    heads = [Column("ID"), Column("STATE"), Column("OWNER", drop=2), Column("COMMAND", flexible=True)]
    output.table(
        heads, [["123456789", "running", "somebody", "x" * 300], ["1", "\x1b[31mpending", "me", "[bold]y"]]
    )
    shown = terminal.getvalue()
    lines = shown.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("123456789")
    assert all(len(line) <= columns for line in lines)
    assert "\x1b" not in shown
    assert ("somebody" in shown) == (columns >= 80)


def test_colours_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.paint("on\x1b[2Jline", "green") == "\x1b[32monline\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("online", "green") == "online"


_COLUMNS = st.tuples(st.integers(0, 40), st.integers(0, 5), st.booleans())


@given(st.lists(_COLUMNS, min_size=1, max_size=8), st.integers(1, 200))
def test_what_must_stay_stays_whole(given_columns: list[tuple[int, int, bool]], space: int) -> None:
    columns = [Column(str(i), drop=drop, flexible=cut) for i, (_, drop, cut) in enumerate(given_columns)]
    widths = [width for width, _, _ in given_columns]
    kept = fitting(columns, widths, space)
    assert list(kept) == sorted(kept)
    for i, column in enumerate(columns):
        assert i in kept or column.drop
        assert kept.get(i, widths[i]) == widths[i] or column.flexible
    if any(columns[i].drop for i in kept):
        assert sum(kept.values()) + 2 * (len(kept) - 1) <= space


def test_ndjson_splits_no_character_and_keeps_offsets(capsys: pytest.CaptureFixture[str]) -> None:
    import json
    import sys

    sink = Sink("stdout", sys.stdout, as_json=True)
    sink.write(Chunk(0, "a€".encode()[:2]))
    sink.write(Chunk(2, "a€".encode()[2:] + b"b\n"))
    sink.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"stream": "stdout", "offset": 0, "data": "a"},
        {"stream": "stdout", "offset": 1, "data": "€b\n"},
    ]
