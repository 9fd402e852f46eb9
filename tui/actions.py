"""The one table of what people can do. Bindings, footer, help, palette and ``:`` commands are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from textual.binding import Binding

if TYPE_CHECKING:
    from textual.dom import DOMNode
    from textual.screen import Screen


class Scope(StrEnum):
    """Which part of the interface an action belongs to; its title in the help."""

    APP = "Everywhere"
    VIEW = "Views"
    TASKS = "Tasks"
    NODES = "Nodes"
    ENVIRONMENTS = "Environments"
    VERSIONS = "Versions"
    SHELLS = "Shells"
    TABLE = "Tables"
    PANELS = "Node panels"
    LOG = "Logs"
    OVERVIEW = "Overview"
    FORM = "Form"
    PICKER = "Places"
    CONFIRM = "Question"
    LIST = "List"


@dataclass(frozen=True, slots=True)
class Action:
    """``action_<id>`` of the node that serves ``scope``. ``footer``: 0 = not there, smaller comes first."""

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    scope: Scope
    footer: int = 0
    priority: bool = False

    @property
    def command(self) -> str:
        """What to type after ``:``."""
        return self.id.replace("_", "-")

    @property
    def shown_keys(self) -> str:
        return " ".join(map(shown_key, self.keys))


def shown_key(key: str) -> str:
    """A key as people know it: ``ctrl+k`` → ``^k``, ``slash`` → ``/``."""
    if key.startswith("ctrl+"):
        return f"^{shown_key(key[5:])}"
    return _SHOWN.get(key, key)


_SHOWN = {
    "slash": "/",
    "colon": ":",
    "question_mark": "?",
    "exclamation_mark": "!",
    "minus": "-",
    "plus": "+",
    "underscore": "_",
    "at": "@",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}

_S = Scope
ACTIONS: tuple[Action, ...] = (
    Action("overview", ("1",), "overview", "nodes and tasks on one screen", _S.APP),
    Action("nodes", ("2",), "nodes", "every node with what it has and does", _S.APP),
    Action("tasks", ("3",), "tasks", "every task", _S.APP),
    Action("environments", ("4",), "environments", "what tasks run in: containers and versions", _S.APP),
    Action("last_view", ("minus",), "last view", "back to the view before this one", _S.APP),
    Action("command", ("colon",), "command", "type an action by its name", _S.APP),
    Action("palette", ("ctrl+p",), "palette", "find an action by a part of its name and run it", _S.APP, 91),
    Action("help", ("question_mark",), "help", "every key that works here; enter runs it", _S.APP, 90),
    Action("back", ("escape",), "back", "one step back; never quits", _S.APP),
    Action(
        "quit", ("q",), "quit", "back, or out of the program; asks only when something is pending", _S.APP, 99
    ),
    Action("exit", ("ctrl+q", "ctrl+c"), "exit", "out of the program from anywhere", _S.APP, priority=True),
    Action("action_log", ("at",), "action log", "what was done here, as command lines", _S.APP),
    Action("freeze", ("z",), "freeze", "stop and go on showing changes", _S.APP),
    Action("refetch", ("ctrl+r",), "refetch", "connect again now and fetch everything", _S.APP),
    Action("redraw", ("ctrl+l",), "redraw", "paint the whole screen again", _S.APP),
    Action("theme", (), "theme", "the next colour theme", _S.APP),
    Action("next_pane", ("tab",), "next pane", "move between the parts of a screen", _S.APP),
    Action("previous_pane", ("shift+tab",), "previous pane", "the other way round", _S.APP),
    Action("filter", ("slash",), "filter", "state:failed batch:12 -node:n1 /regex/ text", _S.VIEW, 20),
    Action("problems", ("exclamation_mark",), "problems", "only what has gone wrong", _S.VIEW, 25),
    Action("new", ("n",), "new", "submit a task", _S.VIEW, 10),
    Action("undo", ("u",), "undo", "take back the last kill within its five seconds", _S.VIEW, 5),
    Action("next_tab", ("right_square_bracket",), "next tab", "the next tab of this screen", _S.VIEW, 28),
    Action("previous_tab", ("left_square_bracket",), "tab before", "the tab before", _S.VIEW),
    Action("grow", ("plus",), "grow", "more room for the log", _S.OVERVIEW),
    Action("shrink", ("underscore",), "shrink", "less room for the log", _S.OVERVIEW),
    Action("logs", ("l",), "logs", "the task's output on the whole screen", _S.TASKS, 12),
    Action("new_from", ("N",), "new from this", "submit a task like the selected one", _S.TASKS),
    Action(
        "pause",
        ("p",),
        "pause/resume",
        "stop the selected tasks where they are, or let them go on",
        _S.TASKS,
        16,
    ),
    Action(
        "kill", ("ctrl+k", "x"), "kill", "end the selected tasks; asks first, can be undone", _S.TASKS, 14
    ),
    Action("copy", ("y",), "copy", "copy the task's command line to the clipboard", _S.TASKS),
    Action("hold", ("h",), "hold/release", "keep waiting tasks from starting, or let them go", _S.TASKS, 40),
    Action("release", (), "release", "let held tasks go", _S.TASKS),
    Action("resubmit", ("r",), "resubmit", "the same tasks once more, as new ones", _S.TASKS, 42),
    Action("requeue", (), "requeue", "move tasks away from a node that is lost", _S.TASKS),
    Action(
        "requeue_force", (), "requeue --force", "the same where nobody can tell whether they run", _S.TASKS
    ),
    Action("show_batch", ("b",), "batch", "show only the batch of this task", _S.TASKS, 44),
    Action("kill_batch", ("X",), "kill batch", "end every task of this batch; asks first", _S.TASKS),
    Action(
        "drain",
        ("d",),
        "drain/undrain",
        "place nothing new on the node, or take it in again",
        _S.NODES,
        15,
    ),
    Action("undrain", (), "undrain", "take drained nodes in again", _S.NODES),
    Action("node_tasks", ("t",), "its tasks", "show only the tasks of this node", _S.NODES, 17),
    Action("remove_node", (), "remove", "forget a node that won't come back; asks first", _S.NODES),
    Action("env_new", ("n",), "new", "make an environment from an image", _S.ENVIRONMENTS, 10),
    Action("env_shell", ("s",), "shell", "a terminal in its container, below the list", _S.ENVIRONMENTS, 12),
    Action("env_terminal", ("S",), "full shell", "the same in the whole terminal", _S.ENVIRONMENTS, 36),
    Action("env_pack", ("p",), "pack", "make a version of its container: tasks get it", _S.ENVIRONMENTS, 13),
    Action(
        "env_rollback",
        ("b",),
        "rollback",
        "give new tasks the version under the cursor, or the one before the current",
        _S.ENVIRONMENTS,
        16,
    ),
    Action("env_start_stop", ("o",), "start/stop", "start its container, or stop it", _S.ENVIRONMENTS, 15),
    Action(
        "env_prefetch", ("f",), "prefetch", "load its current version on every node now", _S.ENVIRONMENTS, 18
    ),
    Action("env_tasks", ("t",), "its tasks", "show only the tasks in it", _S.ENVIRONMENTS, 37),
    Action("env_task", ("N",), "task in it", "submit a task in it", _S.ENVIRONMENTS, 38),
    Action(
        "env_adopt",
        ("a",),
        "adopt",
        "make an environment like a container on the host",
        _S.ENVIRONMENTS,
        40,
    ),
    Action(
        "env_delete", ("X",), "delete", "delete its container; versions stay; asks first", _S.ENVIRONMENTS, 39
    ),
    Action(
        "version_remove",
        ("ctrl+k", "x"),
        "remove",
        "delete versions that nobody needs; asks first",
        _S.VERSIONS,
        14,
    ),
    Action("shell_grow", ("plus",), "grow", "more room for the shell", _S.SHELLS),
    Action("shell_shrink", ("underscore",), "shrink", "less room for the shell", _S.SHELLS),
    Action("shell_end", ("ctrl+k", "x"), "end shell", "hang up the shell below; asks first", _S.SHELLS, 34),
    Action("choose", ("enter",), "detail", "open the selected row", _S.TABLE, 11),
    Action("down", ("j", "down"), "down", "one row down", _S.TABLE),
    Action("up", ("k", "up"), "up", "one row up", _S.TABLE),
    Action("top", ("g", "home"), "top", "first row", _S.TABLE),
    Action("bottom", ("G", "end"), "bottom", "last row", _S.TABLE),
    Action("page_down", ("ctrl+d", "pagedown"), "page down", "half a page down", _S.TABLE),
    Action("page_up", ("ctrl+u", "pageup"), "page up", "half a page up", _S.TABLE),
    Action("mark", ("space",), "mark", "mark the row; verbs act on the marked ones", _S.TABLE, 30),
    Action("range", ("v",), "range", "mark from here to where the cursor goes", _S.TABLE),
    Action("mark_all", ("A",), "mark all", "mark every row that the filter shows", _S.TABLE),
    Action("sort_left", ("less_than_sign",), "sort ←", "sort by the column to the left", _S.TABLE),
    Action("sort_right", ("greater_than_sign",), "sort →", "sort by the column to the right", _S.TABLE, 35),
    Action("reverse", ("R",), "reverse", "the other way round", _S.TABLE),
    Action("panel_choose", ("enter",), "its tasks", "show only the tasks of this node", _S.PANELS, 11),
    Action("panel_next", ("right", "l", "down", "j"), "next node", "the next node", _S.PANELS, 13),
    Action("panel_open", ("o",), "node", "everything about this node", _S.PANELS, 12),
    Action("panel_previous", ("left", "h", "up", "k"), "previous node", "the node before", _S.PANELS),
    Action("log_down", ("j", "down"), "down", "one line down", _S.LOG),
    Action("log_up", ("k", "up"), "up", "one line up", _S.LOG),
    Action("log_top", ("g", "home"), "start", "the start of the log", _S.LOG),
    Action("log_bottom", ("G", "end"), "end", "the end of the log", _S.LOG),
    Action("log_page_down", ("ctrl+d", "pagedown"), "page down", "half a page down", _S.LOG),
    Action("log_page_up", ("ctrl+u", "pageup"), "page up", "half a page up", _S.LOG),
    Action("log_left", ("left",), "left", "scroll to the left", _S.LOG),
    Action("log_right", ("right",), "right", "scroll to the right", _S.LOG),
    Action("follow", ("f",), "follow", "stay at the end while the log grows", _S.LOG, 10),
    Action("wrap", ("w",), "wrap", "break long lines", _S.LOG, 15),
    Action("stream", ("s",), "stdout/stderr", "the other stream", _S.LOG, 12),
    Action("log_search", ("slash",), "search", "search the log: text or /regex/", _S.LOG, 20),
    Action("search_next", ("n",), "next", "the next match", _S.LOG, 21),
    Action("search_previous", ("N",), "previous", "the match before", _S.LOG),
    Action("pager", ("o",), "pager", "the whole log in $PAGER, or less", _S.LOG, 22),
    Action("log_copy", ("y",), "copy", "copy the visible lines", _S.LOG),
    Action("submit", ("enter",), "submit", "submit the task", _S.FORM, 1),
    Action("form_next", ("tab", "down"), "next field", "the next field", _S.FORM, 2),
    Action("form_previous", ("shift+tab", "up"), "previous field", "the field before", _S.FORM),
    Action("complete", ("ctrl+e",), "complete", "take the proposed completion (also →)", _S.FORM, 3),
    Action("form_leave", ("escape",), "leave", "leave the form; asks when something was typed", _S.FORM, 4),
    Action("picker_up", ("up", "k"), "up", "the row above", _S.PICKER),
    Action("picker_down", ("down", "j"), "down", "the row below", _S.PICKER),
    Action("picker_left", ("left", "h"), "left", "the place to the left", _S.PICKER),
    Action("picker_right", ("right", "l"), "right", "the place to the right", _S.PICKER),
    Action("picker_tick", ("space", "enter"), "tick", "take the place, or give it back", _S.PICKER, 1),
    Action("picker_each", ("e",), "a task each", "a task for each GPU, or one with all", _S.PICKER, 2),
    Action("picker_anywhere", ("a",), "anywhere", "let the scheduler pick the place", _S.PICKER, 3),
    Action("confirm", ("y",), "yes", "do it", _S.CONFIRM, 2),
    Action("cancel", ("n", "escape", "enter"), "no", "don't", _S.CONFIRM, 1),
    Action("run", ("enter",), "run", "do what the line says", _S.LIST, 1),
    Action("list_filter", ("slash",), "filter", "find a line", _S.LIST, 2),
    Action("close", ("escape", "q"), "close", "close the list", _S.LIST, 3),
)
BY_ID = {action.id: action for action in ACTIONS}


@runtime_checkable
class Serves(Protocol):
    """A node that has the ``action_…`` methods of some scopes."""

    SCOPES: ClassVar[frozenset[Scope]]


def bindings(*scopes: Scope) -> list[Binding]:
    """Textual's bindings for a class that serves ``scopes``. Ids make them remappable."""
    return [
        Binding(
            ",".join(action.keys), action.id, action.label, id=action.id, show=False, priority=action.priority
        )
        for action in ACTIONS
        if action.scope in scopes and action.keys
    ]


def available(screen: Screen[Any]) -> Iterator[tuple[Action, DOMNode]]:
    """The actions that can be run now on a screen, in table order, each with the node that runs it.

    A node nearer to the focus takes a key away from one further out, as the keyboard does.
    """
    nodes = list((screen.focused or screen).ancestors_with_self)
    inside = nodes[: nodes.index(screen) + 1]
    taken: dict[str, DOMNode] = {}
    found: dict[str, DOMNode] = {}
    for node in (*inside, *(() if screen.is_modal else (screen.app,))):
        scopes = node.SCOPES if isinstance(node, Serves) else frozenset()
        for action in (each for each in ACTIONS if each.scope in scopes):
            mine = [key for key in action.keys if taken.setdefault(key, node) is node]
            if (mine or not action.keys) and action.id not in found and node.check_action(action.id, ()):
                found[action.id] = node
    for action in ACTIONS:
        if action.id in found:
            yield action, found[action.id]
