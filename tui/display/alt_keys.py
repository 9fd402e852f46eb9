"""Escape and the next key in one go: what Alt sends, and what a quick hand types in vim.

Textual's parser forgets the escape before anything but a letter, and takes it with a digit for what Option
makes of that on one keyboard. A program in a shell would miss the key that leads out of its insert mode.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.drivers import linux_driver

_ESC = "\x1b"


class AltParser(XTermParser):
    """Names every key behind an escape ``alt+…``."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        if len(sequence) == 2 and sequence[0] == _ESC and isinstance(ANSI_SEQUENCES_KEYS.get(sequence), str):
            sequence, alt = sequence[1], True
        for key in super()._sequence_to_key_events(sequence, alt):
            named = key.key.startswith("alt+") or not alt
            yield key if named else events.Key(f"alt+{key.key}", key.character)


def install() -> None:
    """Let the terminal's driver parse with it; it names its parser itself."""
    linux_driver.XTermParser = AltParser  # type: ignore[attr-defined]
