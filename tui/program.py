"""What screens may ask of the application that they stand in."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from hakuriver.views import TaskView


class Program(Protocol):
    """The application, without its making: ``tui.app`` knows the screens, they know only this."""

    def do(self, work: Coroutine[Any, Any, str]) -> None:
        """Run an act in the background; its one line of outcome becomes the notice."""

    def notice(self, text: str, tone: str = "info") -> None:
        """Say something for a few seconds."""

    def show_notice(self) -> None:
        """Show again what is to be said now."""

    def open_task(self, task: int) -> None:
        """Everything about one task."""

    def open_logs(self, task: TaskView) -> None:
        """Its logs over the whole screen."""

    def open_form(self, task: TaskView | None, *, container: str = "") -> None:
        """Submit a new task, or one like ``task``, or one in an environment."""

    def open_node(self, name: str) -> None:
        """Everything about one node."""

    def open_environment(self, name: str) -> None:
        """Everything about one environment."""

    async def open_shell(self, name: str) -> None:
        """A shell in an environment's container, beside the panels."""

    async def open_terminal(self, name: str) -> None:
        """The same in the whole terminal."""

    async def show_tasks(self, filtered: str) -> None:
        """The task view with this filter."""

    async def go_to(self, name: str) -> object:
        """Show a view."""
