"""The submit form with its matrix of places, as somebody uses it."""

from __future__ import annotations

from typing import cast

import pytest
from textual.widgets import Input

from tests.tui.peer import gpu_node, node, pending, running, task
from tests.tui.use import Use, until, using
from tui.screens.submit import SubmitForm
from tui.widgets.picker import TargetPicker

LAB = [
    gpu_node("gpu-1", held={0: 7, 1: 7}),
    gpu_node("gpu-2", 4, drained=True, drain_reason="new disk"),
    node("n1"),
    running(7, name="train", owner="bob", gpus=[0, 1], node="gpu-1"),
]
NARROW, WIDE = (80, 24), (160, 50)


def target(use: Use) -> str:
    return use.app.screen.query_one("#field-target", Input).value


def gpus(use: Use) -> str:
    return use.app.screen.query_one("#field-gpus", Input).value


def picker(use: Use) -> TargetPicker:
    return use.app.screen.query_one(TargetPicker)


async def open_places(use: Use, typed: str = "") -> None:
    await use.press("n")
    await use.type("true")
    await use.press("tab")
    if typed:
        await use.type(typed)
    await use.press("tab")
    assert picker(use).has_focus


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_ticks_become_text(size: tuple[int, int]) -> None:
    async with using(*LAB, size=size) as use:
        await open_places(use)
        await use.sees("anywhere", "gpu-1", "numa 0", "space tick", "a task each")
        await use.press("down", "down", "right", "right", "right", "space", "right", "space")
        assert target(use) == "gpu-1::2,3"
        await use.sees("gpu-1 GPU 3", "A100-SXM4-80GB")
        await use.press("e")
        assert target(use) == "gpu-1::2 gpu-1::3"
        await use.sees("2 tasks")
        await use.press("e", "left", "left", "left", "left", "space")
        assert target(use) == "gpu-1:0::2,3", "a NUMA node for what is there"
        await use.press("up", "space")
        assert target(use) == "", "the node's line takes all of it away"
        await use.press("down", "down", "down", "down", "down", "space")
        assert target(use) == "gpu-2:1"
        await use.press("tab", "enter")
        await use.sees("submitted 8")
        assert cast(dict[str, object], use.sent("submit")[0])["targets"] == ["gpu-2:1"]


async def test_text_becomes_ticks() -> None:
    async with using(*LAB, size=WIDE) as use:
        await open_places(use, "gpu-1:0::2 n1")
        await use.sees("■ ● gpu-1", "■ ● n1", "■    numa 0")
        await use.press("shift+tab")
        await use.type(" gpu-1::5")
        await use.sees("■2● gpu-1", "■2")
        await use.type(" gpu-1::9")
        await use.sees("gpu-1 has no GPU 9")
        await use.press("tab", "a")
        assert target(use) == "", "anywhere"
        await use.sees("■   anywhere")


async def test_a_number_of_gpus_anywhere_is_the_gpus_field() -> None:
    async with using(*LAB, size=WIDE) as use:
        await open_places(use, "gpu-1::2")
        await use.press("right", "right", "space")
        assert (target(use), gpus(use)) == ("", "2")
        await use.sees("2 GPUs anywhere: 1 node could give them now")
        await use.press("space")
        assert gpus(use) == ""
        await use.press("space", "down", "down", "right", "right", "right", "space")
        assert (target(use), gpus(use)) == ("gpu-1::2", ""), "named ones and a number don't go together"
        await use.press("a", "tab", "tab", "tab")
        await use.type("3:a100")
        await use.sees("■3")
        await use.press("enter")
        await use.sees("submitted")
        body = cast(dict[str, object], use.sent("submit")[0])
        assert body.get("targets", []) == []
        assert (body["gpu_count"], body["gpu_model"]) == (3, "a100")


async def test_the_matrix_lives() -> None:
    async with using(*LAB, size=WIDE) as use:
        await open_places(use, "gpu-1::2")
        use.host.put(gpu_node("gpu-1", held={0: 7, 1: 7, 2: 9}), gpu_node("gpu-3"))
        await use.sees("■9", "gpu-3")
        assert target(use) == "gpu-1::2"


async def test_a_sweep_says_how_many_tasks_it_makes() -> None:
    async with using(*LAB, size=NARROW) as use:
        await use.press("n")
        await use.type("train.py --lr=span:[0.1,0.01] --seed=span:{1..5}")
        await use.sees("lr: 2 values × seed: 5 values = 10 tasks", "[■]")
        await use.press("enter")
        await use.sees("submitted 8")
        assert cast(dict[str, object], use.sent("submit")[0])["sweep"] is True
        await use.press("at")
        await use.sees("--sweep -- train.py")


async def test_a_warning_of_the_host_is_shown() -> None:
    async with using(*LAB, size=WIDE) as use:
        await use.press("n")
        await use.type("true")
        await use.press("tab")
        await use.type("gpu-1::5")
        await use.press("enter")
        await use.sees("submitted 8; GPU 5 of gpu-1 is used by somebody else")


async def test_a_task_is_submitted_again_with_all_that_it_wanted() -> None:
    wants = {"gpu_count": 2, "gpu_model": "a100", "labels": {"room": "b12"}}
    old = pending(3, wants=wants, time_limit=7200.0, retries=2, priority=5)
    async with using(*LAB, old, size=WIDE) as use:
        await use.press("3", "G", "N")
        assert isinstance(use.app.screen, SubmitForm)
        await use.press("enter")
        await until(lambda: use.sent("submit"))
        body = cast(dict[str, object], use.sent("submit")[0])
        expected = {"gpu_count": 2, "gpu_model": "a100", "labels": {"room": "b12"}, "time_limit": 7200.0}
        assert body.items() >= (expected | {"retries": 2, "priority": 5}).items()


async def test_many_nodes_on_a_small_terminal() -> None:
    nodes = [gpu_node(f"node-{i:02}", 8) for i in range(20)]
    async with using(*nodes, task(1), size=NARROW) as use:
        await open_places(use)
        assert "node-19" not in use.text
        await use.press(*["down"] * 60)
        await use.sees("numa 1", "node-19")
        await use.press(*["right"] * 4, "space")
        assert target(use) == "node-19::7"
        assert all(len(line) <= 80 for line in use.lines)
