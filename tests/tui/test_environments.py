"""Environments on the screen, and what can be done to them: keys in, text and requests out."""

from __future__ import annotations

from typing import Any

from textual.strip import Strip

from tests.tui.peer import node, running
from tests.tui.peer_environments import environment, new_environment, version, work
from tests.tui.use import Use, until, using
from tui.screens.confirm import Confirm
from tui.screens.environment import EnvironmentScreen
from tui.screens.environments import Environments
from tui.screens.submit import SubmitForm
from tui.screens.tables import Tasks

TORCH = environment("torch")
BARE = new_environment("bare", container="stopped")
LAB = [node("n1"), TORCH, BARE]
OLD, NEW = 1_600_000_000, 1_700_000_000


def versions(use: Use) -> None:
    use.host.versions["torch"] = [
        version("torch", NEW, current=True, note="torch 2.4", tasks=[7, 8]),
        version("torch", OLD, note="the first"),
    ]


async def say(use: Use, **line: Any) -> None:
    await use.host.answering.put(line)


async def test_the_view_says_how_each_stands() -> None:
    odd = environment("odd", container="unknown", problem="the tarball of 1700000000 is gone: env rollback")
    async with using(*LAB, odd, size=(160, 30)) as use:
        await use.press("4")
        assert isinstance(use.app.screen, Environments)
        await use.sees("4 environments", "Environments 3", "● running", "○ stopped", "1700000000", "5.2G")
        await use.sees("? unknown", "the tarball of 1700000000 is gone", "never packed", "n new", "p pack")
        await use.press("exclamation_mark")
        await use.sees("1 of 3", "problems only")
        assert "bare" not in use.text
        await use.press("escape", "slash")
        await use.type("state:never")
        await use.press("enter")
        assert [use.table.rows.key_at(i) for i in range(len(use.table.rows))] == ["bare"]


async def test_what_is_typed_fast_after_a_slash_is_text_and_no_verb() -> None:
    async with using(*LAB) as use:
        await use.press("4")
        await use.type("/xopntorch")
        await use.sees("0 of 2", "/xopntorch")
        await use.press("escape")
        for key in ("slash", *"torch", "enter"):
            use._send(key)
        await use.press()
        await use.sees("1 of 2 · /torch", "n new")
        assert isinstance(use.app.screen, Environments) and not use.sent("env")


async def test_an_empty_view_says_what_to_press() -> None:
    async with using(node("n1")) as use:
        await use.press("4")
        await use.sees("no environment yet: n makes one")


async def test_progress_repaints_only_its_row() -> None:
    async with using(*LAB, size=(160, 30)) as use:
        await use.press("4")
        await use.sees("never packed")
        painted: list[int] = []
        original = use.table.render_line

        def noted(y: int) -> Strip:
            painted.append(y)
            return original(y)

        use.table.render_line = noted  # type: ignore[method-assign]
        busy = work("packing", 1_300_000_000, 5_200_000_000, speed=430e6)
        use.host.put({**TORCH, "work": busy})
        await use.sees("25% 430M/s 9s left: packing", "━━────────")
        row = next(y for y, line in enumerate(use.lines) if " torch " in line) - use.table.region.y
        painted.clear()
        use.host.put({**TORCH, "work": {**busy, "done": 2_600_000_000}})
        await use.sees("━━━━━─────")
        assert set(painted) == {row}
        use.host.put(TORCH)
        await until(lambda: "packing" not in use.text)


async def test_packing_asks_for_a_note_and_its_outcome_is_the_notice() -> None:
    async with using(*LAB) as use:
        await use.press("4", "G", "p")
        await use.sees("pack torch; what is new?")
        await use.type("torch 2.4")
        await use.press("enter")
        await until(lambda: use.sent("env pack torch") == [{"note": "torch 2.4"}])
        await use.sees("torch is being packed")
        await say(use, type="progress", work=work("packing"))
        made = version("torch", NEW + 1, current=True)
        await say(use, type="done", version=made, warning="old versions could not be removed")
        await use.sees("packed torch@1700000001, 2.6G: new tasks get it", "could not be removed")
        await use.press("p", "escape")
        assert len(use.sent("env pack")) == 1, "given up"
        await use.press("at")
        await use.sees("hakuriver env pack torch -m 'torch 2.4'")


async def test_what_goes_wrong_is_one_line() -> None:
    async with using(*LAB) as use:
        await use.press("4", "G", "p", "enter")
        error = {
            "code": "storage_full",
            "message": "the disk is full",
            "hint": "remove versions",
            "status": 507,
        }
        await say(use, type="error", error=error)
        await use.sees("torch: the disk is full (remove versions)")
        await use.press("p", "enter")
        await use.host.answering.put(None)
        await use.sees("torch: the host ended its answer early")
        await use.press("g", "p", "enter")
        await say(use, type="error", error={"code": "x", "message": "the engine is away"})
        await use.sees("bare: the engine is away")


async def test_a_new_environment_has_a_small_form() -> None:
    async with using(*LAB) as use:
        await use.press("4", "n")
        await use.sees("New environment on http", "enter submit", "esc leave")
        await use.type("Torch")
        await use.sees("upper case")
        await use.press("enter")
        assert not use.sent("env create")
        await use.press("home", "ctrl+k")
        await use.type("bare")
        await use.sees("bare has a container already")
        await use.type("-2")
        await use.press("tab")
        await use.type("pyth")
        await use.press("right", "enter")
        await until(lambda: use.sent("env create") == [{"name": "bare-2", "image": "python:3.12-slim"}])
        await say(use, type="done", environment=environment("bare-2"))
        await use.sees("bare-2: its container runs")
        await use.press("a")
        await use.type("my-box")
        await use.press("tab")
        await use.type("boxed")
        await use.press("enter")
        await until(lambda: use.sent("env adopt boxed") == [{"container": "my-box"}])
        await say(use, type="done", environment=environment("boxed"))
        await use.sees("boxed: its container runs")
        await use.press("at")
        await use.sees("env create bare-2 python:3.12-slim", "env adopt my-box --name boxed")


async def test_start_stop_and_delete_which_asks() -> None:
    async with using(*LAB) as use:
        await use.press("4", "g", "o")
        await use.sees("started: bare")
        await until(lambda: any("bare" in line and "● running" in line for line in use.text.splitlines()))
        await use.press("o")
        await use.sees("stopped: bare", "○ stopped")
        await use.press("X")
        await use.sees("Delete the container of bare on http", "NEVER PACKED", "Versions stay")
        await use.press("enter")
        assert not use.sent("env delete")
        await use.press("X", "y")
        await use.sees("container deleted, versions kept: bare", "– missing")
        await use.press("p")
        await use.sees("bare has no container")
        await use.press("at")
        for line in ("start bare", "stop bare", "delete bare"):
            await use.sees(f"hakuriver env {line}")


async def test_prefetch_shows_the_nodes_progress_in_the_row() -> None:
    async with using(*LAB, size=(160, 30)) as use:
        await use.press("4", "G", "f")
        await until(lambda: use.sent("env prefetch torch") == [{}])
        loading = work("loading torch@1700000000", 500_000_000, 2_600_000_000, speed=100e6)
        await say(use, type="progress", node="n1", work=loading)
        await use.sees("19% 100M/s 21s left: n1: loading torch@1700000000")
        await say(use, type="progress", node="n2", work={**loading, "done": 2_100_000_000})
        await use.sees("50% 200M/s 13s left: 2 nodes: loading torch@1700000000", "━━━━━─────")
        await say(use, type="done", node="n1", version=version("torch", NEW))
        await say(
            use, type="error", node="n2", error={"code": "x", "message": "the disk is full", "status": 507}
        )
        await use.host.answering.put(None)
        await use.sees("n1 has torch@1700000000; n2: the disk is full")
        await until(lambda: "loading" not in use.text)
        await use.press("g", "f")
        await use.sees("bare was never packed")


async def test_one_environment_and_its_versions() -> None:
    async with using(*LAB, running(7, container="torch", version=NEW), size=(100, 30)) as use:
        versions(use)
        await use.press("4", "G", "enter")
        assert isinstance(use.app.screen, EnvironmentScreen)
        await use.sees(
            "Environment torch", "● running", "1700000000, packed", "python:3.12-slim", "Versions 2"
        )
        await use.sees("● current", "torch 2.4", "7, 8", "the first")
        await use.press("b")
        await use.sees("1700000000 is what new tasks get already")
        await use.press("G", "b")
        await use.sees("new tasks get torch@1600000000", "1600000000, packed")
        await until(lambda: use.sent("env rollback torch") == [{"version": OLD}])
        await use.press("g", "x", "y")
        await use.sees("1700000000: version 1700000000 is needed by task 7")
        await use.press("G", "ctrl+k")
        await use.sees("Delete 1 version of torch on http", "the first")
        await use.press("enter")
        assert not use.sent(f"env version torch {OLD}")
        await use.press("x", "y")
        await use.sees("removed: 1600000000", "Versions 1")
        await use.press("g", "enter")
        assert isinstance(use.app.screen, Tasks)
        await use.sees("/env:torch@1700000000", "1")
        await use.press("at")
        await use.sees("env rollback torch 1600000000", "env versions rm torch 1600000000")


async def test_which_tasks_need_a_version_is_asked_again() -> None:
    async with using(*LAB) as use:
        versions(use)
        await use.press("4", "G", "enter")
        await use.sees("7, 8")
        use.host.versions["torch"][0]["tasks"] = [9]
        use.host.put(running(9, container="torch"))
        await until(lambda: " 9 " in use.text and "7, 8" not in use.text)


async def test_rollback_in_the_list_asks_because_its_aim_is_not_in_sight() -> None:
    async with using(*LAB) as use:
        versions(use)
        await use.press("4", "G", "b")
        await use.sees("the version before 1700000000")
        await use.press("enter")
        assert not use.sent("env rollback")
        await use.press("b", "y")
        await use.sees("new tasks get torch@1600000000")
        await use.press("g")
        assert "rollback" not in use.lines[-1], "nothing to go back to"


async def test_a_task_in_it_and_its_tasks() -> None:
    async with using(*LAB, running(1, container="torch"), running(2), size=(120, 40)) as use:
        await use.press("4", "G", "N")
        assert isinstance(use.app.screen, SubmitForm)
        assert use.app.screen._input("container").value == "torch"
        container = use.app.screen._input("container")
        container.focus()
        await use.press("end", *["backspace"] * 5)
        await use.type("bar")
        await use.sees("no environment 'bar'")
        await use.press("right")
        assert container.value == "bare"
        await use.sees("bare was never packed")
        await use.press("end", *["backspace"] * 4)
        await use.type("torch@")
        await use.press("right")
        assert container.value == "torch@1700000000"
        await until(lambda: "bare was never packed" not in use.text)
        await use.press("escape", "y")
        await until(lambda: not isinstance(use.app.screen, SubmitForm | Confirm))
        await use.press("t")
        assert isinstance(use.app.screen, Tasks)
        await use.sees("1 of 2", "/env:torch")


async def test_tasks_say_which_version_they_run_and_how_far_it_is() -> None:
    reason = "loading torch@1700000000: 1.3G of 5.2G, 430M/s"
    preparing = running(
        5, state="preparing", reason=reason, container="torch", version=NEW, executor="docker"
    )
    used = running(6, container="torch", version=NEW, image_digest="sha256:" + "ab" * 32, executor="docker")
    for size in ((80, 24), (160, 48)):
        async with using(*LAB, preparing, used, size=size) as use:
            await use.press("3")
            await use.sees("◍ preparing", "25% 430M/s · l")
            await use.press("enter")
            await use.sees("docker torch@1700000000", "sha256:abab")
            await use.press("escape", "j", "enter")
            await use.sees("preparing  loading torch@1700000000: 1.3G of 5.2G, 430M/s")


async def test_hostile_names_are_only_text() -> None:
    bad = "[/oops]\x1b[31m"
    odd = environment("odd", base=bad, problem=bad, created_by=bad, work=work(bad))
    async with using(node("n1"), odd, size=(160, 30)) as use:
        use.host.versions["odd"] = [version("odd", NEW, note=bad, by=bad, image=bad)]
        await use.press("4")
        await use.sees("[/oops]␛[31m")
        await use.press("enter")
        await use.sees("Versions 1", "[/oops]␛[31m")
        assert "\x1b" not in use.text
