"""What holds for all of the code: one action table, no shadowed names, nothing heavy before first paint."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import textual
from textual.dom import DOMNode

import tui
from tui.actions import ACTIONS, Scope

HEAVY = (
    "httpx",
    "pydantic",
    "hakuriver.wire",
    "sqlalchemy",
    "docker",
    "daemons",
    "tui.form",
    "websockets",
    "bittty",
    "tui.terminal.widget",
    "tui.screens.environments",
    "textual.widgets._text_area",
)


def test_nothing_heavy_is_imported_before_the_first_paint() -> None:
    code = f"import sys, tui.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert shown.stdout.strip() == "[]", shown.stdout


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(tui.__path__, "tui."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def widgets() -> set[type[DOMNode]]:
    return {
        found
        for module in modules()
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, DOMNode) and found.__module__.startswith("tui.")
    }


def test_every_action_has_a_handler_where_its_scope_is_served() -> None:
    for action in ACTIONS:
        servers = [kind for kind in widgets() if action.scope in vars(kind).get("SCOPES", ())]
        assert servers, action
        for kind in servers:
            assert callable(getattr(kind, f"action_{action.id}", None)), (kind, action.id)


def test_ids_are_unique_and_keys_too_within_a_scope() -> None:
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)
    for scope in Scope:
        keys = [key for action in ACTIONS if action.scope is scope for key in action.keys]
        assert len(keys) == len(set(keys)), scope


def test_default_keys_are_ones_that_terminals_leave_to_us() -> None:
    bad = {
        "ctrl+backslash",
        "ctrl+s",
        "ctrl+z",
        "ctrl+i",
        "ctrl+m",
        "ctrl+h",
        "ctrl+b",
        "ctrl+a",
        "ctrl+left_square_bracket",
    }
    for action in ACTIONS:
        assert not bad & set(action.keys), action
        assert not any(key.startswith("alt+") for key in action.keys), action


def test_no_name_of_ours_shadows_one_of_textuals() -> None:
    """A shadowed ``_auto_refresh``, ``size`` or ``_task`` breaks silently."""
    for kind in widgets():
        bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("textual")]
        ours = {
            name for name, value in vars(kind).items() if getattr(value, "__module__", "") == kind.__module__
        }
        ours |= set(vars(kind).get("__annotations__", {}))
        theirs = {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", {}))}
        clash = {name for name in ours & theirs - MEANT if not name.startswith(("on_", "action_", "_on_"))}
        assert not clash, (kind, clash)


MEANT = {
    "__init__",
    "BINDINGS",
    "COMPONENT_CLASSES",
    "compose",
    "render_line",
    "check_action",
    "_display",
    "ALLOW_SELECT",
} | {
    "can_replace",
    "get_suggestion",
}


@cache
def attributes_set(kind: type[DOMNode]) -> set[str]:
    """Names that a class gives to its instances."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_no_attribute_of_ours_shadows_one_of_textuals() -> None:
    allowed = {
        "theme",
        "ansi_theme_dark",
        "value",
        "cursor_position",
        "display",
        "virtual_size",
        "HORIZONTAL_BREAKPOINTS",
    }
    for kind in widgets():
        bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("textual")]
        theirs = {name for base in bases for name in vars(base)}
        theirs |= {name for base in bases if issubclass(base, DOMNode) for name in attributes_set(base)}
        clash = attributes_set(kind) & theirs - allowed
        assert not clash, (kind, clash)


def test_the_pinned_textual_is_the_one_we_tested() -> None:
    assert textual.__version__ == "8.2.8"
