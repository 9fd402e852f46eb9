"""What a terminal says to its screen."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class TerminalLeft(Message):
    """The release key: the keyboard goes somewhere else, the program goes on."""

    sender: str


@dataclass
class TerminalClosed(Message):
    """Its program is over and somebody has seen so: it can be taken away."""

    sender: str


@dataclass
class TerminalChanged(Message):
    """Its state or its title is another."""

    sender: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, TerminalChanged) and message.sender == self.sender
