"""Textual's keys → what xterm sends for them. Pure."""

from __future__ import annotations

from unicodedata import lookup

from textual.keys import KEY_TO_UNICODE_NAME, REPLACED_KEYS

_ESC = b"\x1b"
_SHIFT, _ALT, _CTRL = 1, 2, 4
_MODIFIERS = {"shift": _SHIFT, "alt": _ALT, "meta": _ALT, "ctrl": _CTRL}
_PLAIN = {"enter": b"\r", "tab": b"\t", "escape": _ESC, "backspace": b"\x7f", "space": b" ", "newline": b"\n"}
_LETTERS = {"up": b"A", "down": b"B", "right": b"C", "left": b"D", "home": b"H", "end": b"F"}
"""``ESC [ A``; ``ESC O A`` for programs that want application cursor keys; ``ESC [ 1 ; 5 A`` with ctrl."""
_NUMBERS = {"insert": 2, "delete": 3, "pageup": 5, "pagedown": 6} | {
    f"f{key}": number for key, number in zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True)
}
"""``ESC [ 15 ~``; ``ESC [ 15 ; 5 ~`` with ctrl."""
_FIRST_FOUR = {"f1": b"P", "f2": b"Q", "f3": b"R", "f4": b"S"}
_CONTROLS = {
    character: bytes([code])
    for characters, code in (
        *((chr(code + 0x60), code) for code in range(1, 27)),
        *(("@ `2", 0), ("[3", 27), ("\\4", 28), ("]5", 29), ("^~6", 30), ("_/-7", 31), ("?8", 127)),
    )
    for character in characters
}
"""With ctrl; what isn't here is sent as it is."""


def encoded(key: str, character: str | None, *, application: bool = False) -> bytes:
    """The bytes of a key press; none for keys that terminals don't know.

    ``application``: the program asked for application cursor keys (DECCKM).
    """
    *names, base = key.split("+") if key != "+" else ["+"]
    if not set(names) <= _MODIFIERS.keys():
        return b""  # super and hyper are the window manager's
    modifiers = 0
    for name in names:
        modifiers |= _MODIFIERS[name]
    if base.startswith("f") and base[1:].isdigit() and 13 <= int(base[1:]) <= 24:
        base, modifiers = f"f{int(base[1:]) - 12}", modifiers | _SHIFT  # what terminals make of shift+F1
    if (found := _named(base, modifiers, application=application)) is not None:
        return found
    if character is not None and character.isprintable() and not modifiers & (_CTRL | _ALT):
        return character.encode("utf-8", "ignore")
    return _modified(_character(base), modifiers)


def _named(base: str, modifiers: int, *, application: bool) -> bytes | None:
    """Keys that aren't characters."""
    parameter = b"%d" % (modifiers + 1)
    if base in _LETTERS or base in _FIRST_FOUR:
        final = _LETTERS.get(base) or _FIRST_FOUR[base]
        if modifiers:
            return b"\x1b[1;" + parameter + final
        return (b"\x1bO" if application or base in _FIRST_FOUR else b"\x1b[") + final
    if base in _NUMBERS:
        return b"\x1b[%d" % _NUMBERS[base] + (b";" + parameter if modifiers else b"") + b"~"
    if base == "tab" and modifiers & _SHIFT:
        return b"\x1b[Z"
    if base in _PLAIN:
        plain = _PLAIN[base]
        if modifiers & _CTRL and base in ("space", "backspace"):
            plain = b"\0" if base == "space" else b"\b"
        return _ESC + plain if modifiers & _ALT else plain
    return None


def _modified(character: str, modifiers: int) -> bytes:
    if not character:
        return b""
    if modifiers & _SHIFT:
        character = character.upper()
    found = character.encode("utf-8", "ignore")
    if modifiers & _CTRL:
        found = _CONTROLS.get(character.lower(), found)
    return _ESC + found if modifiers & _ALT else found


def _character(name: str) -> str:
    """The character that Textual names: ``slash`` is ``/``."""
    if len(name) == 1:
        return name
    if name == "at":
        return "@"
    whole = REPLACED_KEYS.get(name, name)
    try:
        return lookup(KEY_TO_UNICODE_NAME.get(whole, whole).replace("_", " "))
    except KeyError:
        return ""


def pasted(text: str, *, bracketed: bool) -> bytes:
    """What a terminal sends for pasted text: no control character of it can end the brackets."""
    text = text.replace("\r\n", "\r").replace("\n", "\r")
    text = "".join(character for character in text if character in "\t\r" or not _is_control(character))
    data = text.encode("utf-8", "ignore")
    return b"\x1b[200~" + data + b"\x1b[201~" if bracketed else data


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
