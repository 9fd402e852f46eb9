"""Nodes, GPUs, waiting tasks, batches and attempts on the screen, and what can be done to them."""

from __future__ import annotations

from hakuriver.errors import Conflict
from tests.tui.peer import gpu_node, node, pending, running, task
from tests.tui.use import until, using
from tui.screens.confirm import Confirm
from tui.screens.node import NodeScreen
from tui.screens.tables import Gpus, Nodes, Tasks
from tui.screens.task import TaskScreen

GPU_1 = gpu_node("gpu-1", held={0: 7, 1: 7})
GPU_1["gpus"][5]["external"] = True
GPU_1["gpus"][7]["lost"] = "fell off the bus"
HOLDER = running(7, name="train", owner="ann", node="gpu-1", gpus=[0, 1])
LAB = [GPU_1, node("n1"), HOLDER]
BATCH = [pending(20 + i, batch=20, batch_index=i, batch_size=3, reason=f"behind {19 + i}") for i in range(3)]


async def test_nodes_show_their_gpus_and_who_has_them() -> None:
    async with using(*LAB, size=(80, 24)) as use:
        await use.sees("gpu 0█ 1█ 2· 3· │4· 5▒ 6· 7✗")
        await use.press("2")
        await use.sees("Nodes 2 │ GPUs", "── gpu-1 ──", "numa 0", "97%", "61G/80G", "71°C", "7 train")
        await use.sees("external", "✗ lost: fell off the bus", "free")
        await use.press("enter")
        assert isinstance(use.app.screen, NodeScreen)
        await use.sees("Node gpu-1", "address", "Its tasks 1", "sleep 7")
        use.host.put(running(8, node="gpu-1"), running(9, node="n1"))
        await use.sees("sleep 8", "Its tasks 2")
        assert "sleep 9" not in use.text


async def test_tabs_turn_with_brackets() -> None:
    async with using(*LAB, size=(120, 30)) as use:
        await use.press("2", "right_square_bracket")
        assert isinstance(use.app.screen, Gpus)
        await use.sees("Nodes │ GPUs 8", "▒ external", "✗ lost", "A100")
        await use.press("left_square_bracket")
        assert isinstance(use.app.screen, Nodes)
        await use.press("3")
        await use.press("right_square_bracket")
        assert isinstance(use.app.screen, Tasks), "no tabs, no turning"


async def test_gpus_are_filtered_and_verbs_act_on_who_holds_them() -> None:
    async with using(*LAB, size=(160, 30)) as use:
        await use.press("2", "right_square_bracket", "slash")
        await use.type("state:held owner:ann")
        await use.press("enter")
        await use.sees("2 of 8")
        await use.press("A", "x")
        await use.sees("Kill 1 task on", "train")
        await use.press("escape", "escape", "escape", "exclamation_mark")
        await use.sees("2 of 8", "problems only", "fell off the bus")
        await use.press("enter")
        assert isinstance(use.app.screen, NodeScreen), "nobody of ours has it: its node"


async def test_drain_asks_why_and_undrain_does_not() -> None:
    async with using(*LAB) as use:
        await use.press("2", "d")
        await use.sees("drain gpu-1 on", "because")
        await use.press("escape")
        assert not use.sent("drain")
        await use.press("d")
        await use.type("new disk")
        await use.press("enter")
        await use.sees("draining: gpu-1", "◇ drained", "new disk", "◇ 1")
        assert use.sent("drain gpu-1") == [{"reason": "new disk"}]
        await use.press("d")
        await use.sees("takes tasks again: gpu-1")
        await until(lambda: "◇" not in use.text)
        await use.press("at")
        await use.sees("hakuriver node drain gpu-1 --reason 'new disk'", "hakuriver node undrain gpu-1")


async def test_a_drained_node_is_seen_in_every_form_of_the_panels() -> None:
    drained = gpu_node("gpu-2", drained=True, drain_reason="new disk")
    for size, many in (((80, 24), 1), ((160, 48), 1), ((100, 30), 12)):
        async with using(drained, *(node(f"n{i}") for i in range(many)), size=size) as use:
            await use.sees("gpu-2", "drained", "new disk", "◇ 1")


async def test_waiting_tasks_say_why_in_the_table_and_in_detail() -> None:
    async with using(*LAB, *BATCH, size=(80, 24)) as use:
        use.host.explained[20] = {
            "ahead": 2,
            "reserved": "gpu-1",
            "nodes": [
                {"node": "gpu-1", "fits": False, "why": "no GPU is free", "tasks": [7], "at": None},
                {"node": "n1", "fits": False, "why": "has no GPU", "tasks": [], "at": None},
            ],
        }
        await use.press("3", "slash")
        await use.type("state:pending")
        await use.press("enter")
        await use.sees("behind 19", "behind 21")
        await use.press("G", "enter")
        assert isinstance(use.app.screen, TaskScreen)
        await use.sees(
            "Why it waits", "2 tasks before it · gpu-1 keeps room for it", "no GPU is free", "has no"
        )
        await use.sees("20: 1 of 3 · 3 pending")
        use.host.put(running(20, batch=20, batch_size=3))
        await use.sees("stdout of 20")
        assert "Why it waits" not in use.text


async def test_attempts_are_a_tab_and_each_has_its_log() -> None:
    async with using(*LAB, task(30, attempt=2, retries=3, retried=1), size=(100, 30)) as use:
        first: dict[str, object] = {"attempt": 1, "state": "killed_oom", "reason": "", "node": "n1"}
        first |= {"executor": "process", "version": None, "image_digest": None}
        first |= {"exit_code": None, "signal": 9, "error": "over 2G", "oom_events": 1}
        first |= {
            "assigned_at": None,
            "started_at": "2026-01-31T12:00:00Z",
            "ended_at": "2026-01-31T12:00:05Z",
        }
        use.host.attempts[30] = [first, first | {"attempt": 2, "state": "completed", "error": None}]
        await use.press("3", "g", "enter", "right_square_bracket")
        await use.sees("Attempts 2", "✗ killed oom", "sig 9", "over 2G", "1 of 3 retries used")
        await use.press("G", "enter")
        await use.sees("stdout of 30 attempt 1")


async def test_hold_and_release() -> None:
    async with using(*LAB, pending(40)) as use:
        await use.press("3", "h")
        await use.sees("held: 40", "held by ann")
        await use.press("h")
        await use.sees("released: 40")
        await use.press("G", "h")
        await use.sees("only waiting tasks can be held")
        await use.press("at")
        await use.sees("hakuriver task hold 40", "hakuriver task release 40")


async def test_a_batch_is_shown_and_killed_as_one() -> None:
    async with using(*LAB, *BATCH, pending(2, batch=2), size=(160, 40)) as use:
        await use.press("b")
        await use.sees("3 of 5 · /batch:20")
        await use.press("X")
        await use.sees("Kill what is alive of batch 20, 3 tasks, on http")
        await use.press("enter")
        assert not use.sent("kill")
        await use.press("X", "y")
        await until(lambda: use.sent("kill"))
        await use.press("at")
        await use.sees("hakuriver task kill --batch 20")


async def test_requeue_is_asked_twice_over_when_forced() -> None:
    async with using(node("n1", state="unreachable"), running(50)) as use:
        use.host.refuse[50] = Conflict("n1 may still run 50", hint="hakuriver task requeue --force")
        await use.press("colon")
        await use.type("requeue")
        await use.press("enter")
        await use.sees("Move 1 task away from n1 on http")
        await use.press("y")
        await use.sees("50: n1 may still run 50")
        use.host.refuse.clear()
        await use.press("colon")
        await use.type("requeue-force")
        await use.press("enter")
        await use.sees("by force on http", "two copies", "type 1")
        await use.press("y", "enter")
        assert isinstance(use.app.screen, Confirm) is False and len(use.sent("requeue")) == 1
        await use.press("colon")
        await use.type("requeue-force")
        await use.press("enter")
        await use.type("1")
        await use.press("enter")
        await use.sees("requeued: 50")
        assert use.sent("requeue 50")[-1] == {"force": True}


async def test_resubmit_makes_a_new_task() -> None:
    async with using(*LAB, task(60)) as use:
        await use.press("3", "r")
        await use.sees("submitted again: 60 as 61", "61  ◌ pending")
        await use.press("A", "r")
        await use.sees("Submit 3 tasks again on")
        await use.press("enter")
        assert len(use.sent("resubmit")) == 1


async def test_a_node_that_is_gone_is_forgotten_after_a_question() -> None:
    async with using(*LAB) as use:
        await use.press("2", "G", "colon")
        await use.type("remove-node")
        await use.press("enter")
        await use.sees("Forget n1 on http", "joins again")
        await use.press("enter")
        assert not use.sent("remove")
        await use.press("colon")
        await use.type("remove-node")
        await use.press("enter", "y")
        await use.sees("removed: n1")
