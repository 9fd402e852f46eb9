"""Nothing that a task or a node says can do anything to a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style

from tui.ansi import plain, spans, visible
from tui.plain import clean, fit

ANY = st.text(st.characters(codec="utf-8"), max_size=60)


def harmless(text: str) -> bool:
    return all(unicodedata.category(each) not in {"Cc", "Cf", "Zl", "Zp", "Cs"} for each in text)


@given(ANY)
@example("\x1b]0;title\x07 \u202etxt.exe \u200d \x9b31m")
def test_clean_leaves_nothing_that_acts(text: str) -> None:
    assert harmless(clean(text))


def test_clean_shows_what_it_took_away() -> None:
    assert clean("a\x1b[31mb\nc\x7f") == "a␛[31mb␊c␡"
    assert clean("[/oops] [@click=app.quit]x[/]") == "[/oops] [@click=app.quit]x[/]"
    assert clean("世界 café") == "世界 café"


@given(ANY, st.integers(0, 30), st.booleans())
def test_fit_is_exact_in_cells(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(clean(text), width, right=right)) == width


@given(
    st.lists(
        st.sampled_from(
            ["\x1b", "[", "]", "31", ";", "m", "P", "\x07", "\\", "x", "\x9b", "\r", "0", "ä", "\t"]
        ),
        max_size=30,
    )
)
def test_log_text_is_harmless(parts: list[str]) -> None:
    line = "".join(parts)
    assert harmless(plain(visible(line.encode())))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\n", "plain"),
        (b"crlf\r\n", "crlf"),
        (b"10%\r50%\r", "50%"),
        (b"10%\r50%\r100%\n", "100%"),
        (b"\x1b[31mred\x1b[0m \x1b[2Kx\x1b[10;20H", "red x"),
        (b"\x1b]0;evil\x07ok\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "oklink"),
        (b"\x1bPdcs\x1b\\after \x1bcreset", "after reset"),
        (b"a\tb", "a       b"),
        (b"bad \xff utf", "bad � utf"),
        (b"bell\x07 back\x08 nul\x00", "bell back nul"),
        (b"half \x1b[3", "half "),
    ],
)
def test_what_a_terminal_would_show(raw: bytes, shown: str) -> None:
    assert plain(visible(raw)) == shown


def test_colours() -> None:
    found = spans(
        "\x1b[1;31mbold red\x1b[22m red\x1b[39m none \x1b[38;5;208mx\x1b[48;2;1;2;3my\x1b[0m \x1b[7;95mz"
    )
    assert [text for text, _ in found] == ["bold red", " red", " none ", "x", "y", " ", "z"]
    assert found[0][1] == Style(bold=True, color="color(1)")
    assert found[1][1].color == Style(color="color(1)").color and not found[1][1].bold
    assert found[3][1].color == Style(color="color(208)").color
    assert found[4][1].bgcolor == Style(bgcolor="#010203").bgcolor
    assert found[5][1] == Style.null()
    assert found[6][1].reverse and found[6][1].color == Style(color="color(13)").color


@given(st.text("0123456789;:", max_size=20))
def test_any_sgr_is_survived(codes: str) -> None:
    assert plain(f"\x1b[{codes}mx") == "x"
