"""Widgets that want every key, also those that the app would take first. Imports nothing of theirs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Greedy(Protocol):
    """A widget that may take the whole keyboard while it has the focus."""

    @property
    def takes_keys(self) -> bool: ...


def takes_keys(focused: object) -> bool:
    """Whether the focused widget gets every key: then ``check_action`` of the app says no to its own."""
    return isinstance(focused, Greedy) and focused.takes_keys
