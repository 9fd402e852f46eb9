"""Everything that widgets and workers say to screens, typed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from textual.message import Message

from tui.live import Changes


@dataclass
class ClusterChanged(Message):
    """The mirror is different from when it was last drawn."""

    changes: Changes


@dataclass
class KeyboardMoved(Message):
    """Who was about to get the keyboard has it now."""


@dataclass
class Highlighted(Message):
    """The cursor of a table is on another row, or on none. Bursts cost one."""

    sender: str
    key: Hashable | None

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Highlighted) and message.sender == self.sender


@dataclass
class Chosen(Message):
    """Enter on a row of a table or on a node panel."""

    sender: str
    key: Hashable


@dataclass
class Picked(Message):
    """Places were ticked: the targets as text, and how many GPUs anywhere (0 = none asked for)."""

    targets: str
    gpus: int


@dataclass
class Ticked(Message):
    """A box was ticked, or no longer is."""

    sender: str


@dataclass
class NodeAsked(Message):
    """Somebody wants to see everything about a node."""

    name: str


@dataclass
class PromptChanged(Message):
    """What stands in the prompt now."""

    kind: str
    text: str


@dataclass
class PromptClosed(Message):
    """The prompt is done; ``text`` is None when it was given up."""

    kind: str
    text: str | None


@dataclass
class SearchAsked(Message):
    """Somebody wants to search a log view."""

    sender: str


@dataclass
class LogMoved(Message):
    """A log view shows something else: its title line has to say so."""

    sender: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, LogMoved) and message.sender == self.sender


@dataclass
class ShellLeft(Message):
    """The release key was pressed in a shell: the keyboard goes back to the panels, the shell goes on."""


@dataclass
class ShellEnded(Message):
    """A shell is no more; ``code`` is its exit status, None when the connection ended before."""

    environment: str
    code: int | None
