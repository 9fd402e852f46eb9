"""What goes to a program: keys, pastes and mouse reports are those of xterm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser

from tui.display.alt_keys import AltParser
from tui.terminal.keys import encoded, pasted
from tui.terminal.mouse import NO_BUTTON, Did, Wheel, report, wheel
from tui.terminal.stream import Modes, Mouse


@pytest.mark.parametrize(
    ("key", "character", "sent"),
    [
        ("a", "a", b"a"),
        ("A", "A", b"A"),
        ("é", "é", "é".encode()),
        ("世", "世", "世".encode()),
        ("slash", "/", b"/"),
        ("at", "@", b"@"),
        ("space", " ", b" "),
        ("plus", "+", b"+"),
        ("enter", "\r", b"\r"),
        ("shift+enter", None, b"\r"),
        ("tab", "\t", b"\t"),
        ("shift+tab", None, b"\x1b[Z"),
        ("escape", "\x1b", b"\x1b"),
        ("backspace", "\x7f", b"\x7f"),
        ("ctrl+backspace", None, b"\b"),
        ("alt+backspace", None, b"\x1b\x7f"),
        ("ctrl+c", "\x03", b"\x03"),
        ("ctrl+z", "\x1a", b"\x1a"),
        ("ctrl+at", "\0", b"\0"),
        ("ctrl+space", None, b"\0"),
        ("ctrl+backslash", "\x1c", b"\x1c"),
        ("ctrl+right_square_bracket", "\x1d", b"\x1d"),
        ("ctrl+circumflex_accent", "\x1e", b"\x1e"),
        ("ctrl+underscore", "\x1f", b"\x1f"),
        ("ctrl+slash", None, b"\x1f"),
        ("ctrl+left_square_bracket", None, b"\x1b"),
        ("ctrl+i", None, b"\t"),
        ("ctrl+1", None, b"1"),
        ("ctrl+shift+c", None, b"\x03"),
        ("alt+x", "x", b"\x1bx"),
        ("alt+shift+x", "X", b"\x1bX"),
        ("alt+ctrl+x", None, b"\x1b\x18"),
        ("alt+enter", None, b"\x1b\r"),
        ("f1", None, b"\x1bOP"),
        ("f5", None, b"\x1b[15~"),
        ("f12", None, b"\x1b[24~"),
        ("ctrl+f1", None, b"\x1b[1;5P"),
        ("shift+f5", None, b"\x1b[15;2~"),
        ("f13", None, b"\x1b[1;2P"),
        ("delete", None, b"\x1b[3~"),
        ("ctrl+shift+pageup", None, b"\x1b[5;6~"),
        ("super+a", "a", b""),
        ("<ignore>", None, b""),
        ("caps_lock", None, b""),
    ],
)
def test_keys(key: str, character: str | None, sent: bytes) -> None:
    assert encoded(key, character) == sent


@pytest.mark.parametrize("key", ["up", "down", "right", "left", "home", "end"])
def test_application_cursor_keys(key: str) -> None:
    final = {"up": "A", "down": "B", "right": "C", "left": "D", "home": "H", "end": "F"}[key]
    assert encoded(key, None) == b"\x1b[" + final.encode()
    assert encoded(key, None, application=True) == b"\x1bO" + final.encode()
    assert encoded(f"ctrl+{key}", None, application=True) == b"\x1b[1;5" + final.encode()


def test_what_xterm_sends_goes_on_as_it_came() -> None:
    """Through Textual's parser and back: what a shell gets is what the user's terminal sent."""
    xterms = [
        sequence
        for sequence in ANSI_SEQUENCES_KEYS
        if (len(sequence) == 1 and sequence not in "\x08\x9b")
        or (sequence.startswith(("\x1b[1;2", "\x1b[1;5", "\x1b[1;6")) and sequence[-1] in "ABCDFHPQRS")
        or sequence
        in ("\x1b[2~", "\x1b[3~", "\x1b[5~", "\x1b[6~", "\x1b[Z", "\x1bOP", "\x1b[15~", "\x1b[24~")
        or sequence in ("\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[H", "\x1b[F", "\x1b[3;5~", "\x1b[5;6~")
    ]
    assert len(xterms) > 70
    for sequence in xterms:
        keys = list(XTermParser()._sequence_to_key_events(sequence))
        assert b"".join(encoded(key.key, key.character) for key in keys) == sequence.encode(), (
            sequence,
            keys,
        )


@given(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
def test_every_character_that_can_be_typed(character: str) -> None:
    for key in XTermParser()._sequence_to_key_events(character):
        shown = character.isprintable()
        assert encoded(key.key, key.character) == (character.encode() if shown else encoded(key.key, None))


@given(st.text())
def test_a_paste_has_no_control_characters_but_tabs_and_returns(text: str) -> None:
    plain = pasted(text, bracketed=False).decode()
    assert not any((c < " " and c not in "\t\r") or "\x7f" <= c <= "\x9f" for c in plain)
    assert pasted(text, bracketed=True) == b"\x1b[200~" + plain.encode() + b"\x1b[201~"


def test_pasted_lines() -> None:
    assert pasted("a\nb\r\nc\td", bracketed=False) == b"a\rb\rc\td"
    assert pasted("x\x1b[201~rm\x03", bracketed=True) == b"\x1b[200~x[201~rm\x1b[201~"


@pytest.mark.parametrize(
    ("mode", "sgr", "did", "button", "held", "sent"),
    [
        (Mouse.OFF, True, Did.PRESS, 0, {}, b""),
        (Mouse.PRESSES, False, Did.PRESS, 0, {"ctrl": True}, b"\x1b[M *#"),
        (Mouse.PRESSES, False, Did.RELEASE, 0, {}, b""),
        (Mouse.CLICKS, True, Did.PRESS, 0, {}, b"\x1b[<0;10;3M"),
        (Mouse.CLICKS, True, Did.RELEASE, 2, {}, b"\x1b[<2;10;3m"),
        (Mouse.CLICKS, False, Did.RELEASE, 2, {}, b"\x1b[M#*#"),
        (Mouse.CLICKS, True, Did.MOVE, 0, {}, b""),
        (Mouse.CLICKS, True, Did.PRESS, Wheel.DOWN.value, {}, b"\x1b[<65;10;3M"),
        (Mouse.DRAGS, True, Did.MOVE, 0, {}, b"\x1b[<32;10;3M"),
        (Mouse.DRAGS, True, Did.MOVE, NO_BUTTON, {}, b""),
        (Mouse.MOTION, True, Did.MOVE, NO_BUTTON, {"shift": True, "alt": True}, b"\x1b[<47;10;3M"),
    ],
)
def test_mouse_reports(
    mode: Mouse, sgr: bool, did: Did, button: int, held: dict[str, bool], sent: bytes
) -> None:
    assert report(Modes(mouse=mode, mouse_sgr=sgr), did, button, 9, 2, **held) == sent


def test_columns_that_the_old_reports_cannot_name() -> None:
    assert report(Modes(mouse=Mouse.CLICKS), Did.PRESS, 0, 222, 0) == b"\x1b[M \xff!"
    assert report(Modes(mouse=Mouse.CLICKS), Did.PRESS, 0, 223, 0) == b""


def test_the_wheel_is_arrow_keys_where_nobody_takes_the_mouse() -> None:
    assert wheel(Modes(alternate_screen=True), Wheel.UP, 2) == b"\x1b[A\x1b[A"
    assert wheel(Modes(alternate_screen=True, application_cursor=True), Wheel.DOWN, 1) == b"\x1bOB"
    assert wheel(Modes(alternate_screen=True, wheel_as_arrows=False), Wheel.UP, 1) == b""
    assert wheel(Modes(alternate_screen=True, mouse=Mouse.CLICKS), Wheel.UP, 1) == b""
    assert wheel(Modes(), Wheel.UP, 1) == b""


@pytest.mark.parametrize(
    "typed", ["\x1b:wq\r", "\x1b3j", "\x1b\r", "\x1ba", "\x1bA", "\x1b-", "a\x1b/b", "\x1b\x02"]
)
def test_escape_and_the_next_key_at_once_lose_nothing(typed: str) -> None:
    parser = AltParser()
    found = [*parser.feed(typed), *parser.feed("")]  # the end: nothing else belongs to the sequence
    assert all(isinstance(each, events.Key) for each in found)
    sent = b"".join(encoded(each.key, each.character) for each in found if isinstance(each, events.Key))
    assert sent == typed.encode()
