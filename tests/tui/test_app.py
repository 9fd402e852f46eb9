"""The program as people use it: keys in, text on the screen out, on a real HTTP peer."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from tests.tui.peer import Peer, node, running, task
from tests.tui.use import until, using
from tui.actions import ACTIONS, BY_ID, available
from tui.screens.confirm import Confirm
from tui.screens.lists import ActionList
from tui.screens.submit import SubmitForm
from tui.screens.task import LogScreen, TaskScreen
from tui.widgets.bars import Banner
from tui.widgets.log_view import LogView

TASKS = [node("n1"), *(running(i) for i in range(1, 4))]


@pytest.mark.parametrize("size", [(80, 24), (160, 48), (200, 60)])
async def test_overview_at_every_size(size: tuple[int, int]) -> None:
    views = [node(f"n{i}") for i in range(4)] + [running(i, name=f"t{i}") for i in range(1, 9)]
    async with using(*views, size=size) as use:
        use.host.write(8, b"hello from the log\n")
        await use.sees(
            "● live", "4/4 nodes", "● running", "sleep 8", "stdout of 8", "hello from the log", "cpu ", "40%"
        )
        assert all(len(line) <= size[0] for line in use.lines)
        assert "q quit" in use.lines[-1] and "? help" in use.lines[-1]
        use.host.put(running(9), node("n4", state="unreachable"))
        await use.sees("sleep 9", "4/5 nodes")
        assert "<svg" in use.app.export_screenshot()


HOSTILE = "[/oops][@click=app.quit]x[/] \x1b[31m\x07 \u202eabc \x9b2J 世界 עברית"


async def test_text_from_tasks_and_nodes_is_only_text() -> None:
    bad = running(
        1,
        name=HOSTILE,
        owner=HOSTILE,
        command=["echo", HOSTILE],
        node=HOSTILE,
        reason=HOSTILE,
        tags=[HOSTILE],
    )
    worse = task(2, state=HOSTILE, error=HOSTILE, owner=HOSTILE, target=HOSTILE, workdir=HOSTILE)
    odd = node(HOSTILE, state=HOSTILE, reason=HOSTILE, executors=[HOSTILE], unavailable={HOSTILE: HOSTILE})
    async with using(bad, worse, odd, size=(160, 40)) as use:
        use.host.write(1, HOSTILE.encode() + b"\n")
        use.app.notice(HOSTILE)
        for keys, shown in (
            (["j"], "stdout of 1 [/oops]"),
            (["3"], "── Tasks 2"),
            (["2"], "EXECUTORS"),
            (["1", "G", "enter"], "resources"),
            (["l"], " [/oops][@click=app.quit]x[/]  abc  世界"),
            (["escape", "escape", "x"], "Kill 1 task"),
            (["escape"], "stdout of 1 [/oops]"),
            (["at"], "nothing yet"),
        ):
            await use.press(*keys)
            await use.sees("[/oops]", shown)
            assert "\x1b" not in use.text and "\u202e" not in use.text and "\x9b" not in use.text
            assert use.app.is_running
        await use.press("escape", "N")
        assert "[/oops][@click=app.quit]x[/]" in use.text
        assert use.app.is_running and not use.app._exit


async def test_the_cursor_stays_on_its_task() -> None:
    async with using(node("n1"), *(running(i) for i in range(1, 60)), size=(100, 24)) as use:
        await use.press("3", "j", "j", "j")
        table = use.table
        assert table.rows.cursor == 56
        before = [line for line in use.lines if "sleep 56" in line]
        use.host.put(*(running(i) for i in range(60, 70)))
        await until(lambda: len(table.rows) == 69)
        assert table.rows.cursor == 56
        await use.press("G", "k", "k")
        assert table.rows.cursor == 3
        place = next(y for y, line in enumerate(use.lines) if "sleep 3 " in line)
        use.host.put(*(running(i) for i in range(70, 90)), task(50, state="failed"))
        await until(lambda: len(table.rows) == 89)
        await use.pilot.pause()
        assert table.rows.cursor == 3 and "sleep 3 " in use.lines[place], "the rows under the eye stand still"
        use.host.delete(id=3)
        await until(lambda: 3 not in table.rows)
        assert table.rows.cursor == 2
        assert before


async def test_filter_marks_and_sort() -> None:
    views = [running(1, owner="bob"), running(2), task(3, state="failed"), task(4)]
    async with using(*views) as use:
        await use.press("3", "slash")
        await use.type("state:failed")
        await use.sees("1 of 4")
        await use.press("enter")
        assert [use.table.rows.key_at(i) for i in range(len(use.table.rows))] == [3]
        use.host.put(task(5, state="failed"), task(6))
        await use.sees("2 of 6")
        await use.press("escape")
        assert len(use.table.rows) == 6 and use.app.is_running
        await use.press("slash")
        assert use.app.screen.query_one(Input).value == "state:failed", "it recalls the last"
        await use.press("escape", "exclamation_mark")
        await use.sees("problems only")
        assert {use.table.rows.key_at(i) for i in range(len(use.table.rows))} == {3, 5}
        await use.press("exclamation_mark", "R")
        assert use.table.rows.key_at(0) == 1
        await use.press("g", "space", "space", "slash")
        await use.type("/(/")
        await use.sees("not a regular expression")
        await use.press("escape", "greater_than_sign")
        assert use.table.rows.sort == "state" and use.table.rows.marks == {1, 2}


async def test_the_keyboard_returns_to_where_it_was_before_a_prompt() -> None:
    async with using(*TASKS) as use:
        for closing in ("enter", "escape"):
            await use.press("slash")
            await use.type("sleep")
            await use.press(closing)
            assert use.app.screen.focused is use.table, closing
        use.app.screen.query_one(LogView).focus()
        await use.press("colon", "escape")
        assert isinstance(use.app.screen.focused, LogView)


async def test_kill_asks_and_enter_is_no() -> None:
    async with using(*TASKS) as use:
        for refusal in ("enter", "escape", "n"):
            await use.press("x")
            assert isinstance(use.app.screen, Confirm)
            await use.sees(use.app.session.label, "sleep 3")
            await use.press(refusal)
            assert not isinstance(use.app.screen, Confirm)
        assert use.sent("kill") == []


async def test_kill_can_be_taken_back_for_five_seconds() -> None:
    async with using(*TASKS) as use:
        await use.press("ctrl+k", "y")
        await use.sees("killing 3 in", "u takes it back", "u undo")
        assert use.sent("kill 3") == [{"verb": "kill", "tasks": [3], "delay": 5}]
        await use.press("q")
        assert isinstance(use.app.screen, Confirm), "quitting asks while something is pending"
        await use.press("enter")
        await use.press("u")
        await use.sees("kill taken back: 3")
        assert use.sent("unkill 3")
        await use.press("at")
        await use.sees("hakuriver task kill 3", "hakuriver task kill --undo 3")


async def test_the_undo_window_is_what_the_host_says() -> None:
    held = {"intent": "kill", "intent_by": "ann", "intent_due_at": "2099-01-31T12:00:05.000Z"}
    tasks = [running(1, **held), running(2, **(held | {"intent_by": "bob"})), running(3)]
    async with using(node("n1"), *tasks) as use:
        await use.sees("killing 1 in", "u undo", "● killing")
        await use.press("u")
        await use.sees("kill taken back: 1")
        assert [path for _, path, _ in use.host.seen if "kill" in path] == ["unkill 1"], "bob's is bob's"
        assert "u undo" not in use.text
        use.host.put(running(3, **held))
        await use.sees("killing 3 in")
        use.host.put(task(3, state="killed"))
        await until(lambda: "killing 3 in" not in use.text)


async def test_a_task_without_output_says_why() -> None:
    tasks = [
        task(1, state="failed", exit_code=2),
        task(2, state="failed", exit_code=None, error="no such image", started_at=None),
        running(3, state="pending", reason="waiting for 2 cores", started_at=None, node=None),
        running(4, name="talks"),
    ]
    async with using(node("n1"), *tasks) as use:
        use.host.write(4, b"hello\n")
        await use.sees("stdout of 4 talks · following 6 B")
        await use.press("j")
        await use.sees("stdout of 3", "pending: waiting for 2 cores")
        await use.press("j")
        await use.sees("stdout of 2", "never ran: no such image")
        use.host.log_ended = True
        use.host.write(1, b"usage: it\n", "stderr")
        await use.press("j")
        await use.sees("stderr of 1", "usage: it", "✗ failed: exit code 2")
        await use.press("l")
        await use.sees("── stderr of 1", "f follow")
        await use.press("o")
        await use.sees("needs a real terminal")


async def test_many_or_foreign_tasks_need_their_count_typed() -> None:
    async with using(node("n1"), *(running(i, owner="bob" if i == 4 else "ann") for i in range(1, 5))) as use:
        await use.press("A", "x")
        await use.sees("Kill 4 tasks", "1 of them belong to others")
        await use.press("y", "enter")
        assert use.sent("kill") == []
        await use.press("x")
        await use.type("4")
        await use.press("enter")
        await use.sees("killing 1, 2, 3, 4 in")
        assert len(use.sent("kill")) == 1, "all in one request"


async def test_pause_and_resume() -> None:
    async with using(*TASKS) as use:
        await use.press("p")
        await use.sees("pause asked for: 3", "‖ paused")
        await use.press("p")
        await use.sees("resume asked for: 3")


async def test_footer_help_palette_and_commands_are_the_one_table() -> None:
    async with using(*TASKS, size=(160, 48)) as use:
        here = {action.id for action, _ in available(use.app.screen)}
        assert {"kill", "new", "filter", "quit", "grow", "sort_right"} <= here
        assert not {"undo", "follow", "submit"} & here
        for action, _ in available(use.app.screen):
            if action.footer:
                assert f" {action.label} " in use.lines[-1], action
        await use.press("question_mark")
        screen = use.app.screen
        assert isinstance(screen, ActionList)
        assert {entry.action.id for entry in screen.table.rows.all.values()} == here
        await use.press("escape", "ctrl+p")
        await use.type("every task")
        await use.press("enter")
        await use.sees("── Tasks 3")
        assert use.app.screen.query("#all-tasks")
        await use.press("colon")
        await use.type("nodes")
        await use.press("enter")
        await use.sees("EXECUTORS")
        await use.press("colon")
        await use.type("nonsense")
        await use.press("enter")
        await use.sees("no command 'nonsense' here")


async def test_keys_can_be_remapped_by_id() -> None:
    async with using(*TASKS) as use:
        use.app.set_keymap({BY_ID["kill"].id: "f9"})
        await use.press("x")
        assert not isinstance(use.app.screen, Confirm)
        await use.press("f9")
        assert isinstance(use.app.screen, Confirm)


async def test_escape_never_quits_and_views_come_back() -> None:
    async with using(*TASKS) as use:
        await use.press("3", "j", "2", "minus")
        assert use.app.screen.query("#all-tasks") and use.table.rows.cursor == 2
        await use.press("enter")
        assert isinstance(use.app.screen, TaskScreen)
        await use.press("l")
        assert isinstance(use.app.screen, LogScreen)
        await use.press(*["escape"] * 6)
        assert use.app.is_running and len(use.app.screen_stack) == 1
        await use.press("q")
        assert use.app._exit


async def test_submit_form() -> None:
    async with using(*TASKS, size=(160, 48)) as use:
        await use.press("n")
        await use.press("enter")
        await use.sees("what should run?")
        await use.type("echo 'a b")
        await use.sees("write a quote in quotes")
        await use.type("'")
        await use.sees("['echo', 'a b']")
        await use.press("tab")
        await use.type("n9")
        await use.sees("there is no node 'n9'")
        await use.press("backspace", "1", "enter")
        await use.sees("submitted 4")
        body = use.sent("submit")[0]
        assert isinstance(body, dict)
        assert body["command"] == ["echo", "a b"] and body["targets"] == ["n1"]
        assert body["caller"]["workdir"], "the peer is an embedded cluster"
        await use.press("at")
        await use.sees("hakuriver task submit --target n1 -- echo 'a b'")


async def test_what_the_host_refuses_is_a_line_in_the_form() -> None:
    async with using(*TASKS) as use:
        use.host.refuse_submit = {
            "code": "cannot_fit",
            "message": "no node has [64] cores",
            "hint": "ask for less",
        }
        await use.press("n")
        await use.type("true")
        await use.press("enter")
        await use.sees("no node has [64] cores", "ask for less")
        await use.press("escape")
        assert isinstance(use.app.screen, Confirm), "what was typed isn't lost by a slip"
        await use.press("enter")
        assert isinstance(use.app.screen, SubmitForm)
        await use.press("escape", "y")
        assert not isinstance(use.app.screen, SubmitForm)


async def test_a_lost_host_never_looks_like_an_empty_one() -> None:
    host = Peer()
    await host.start()
    host.put(*TASKS)
    async with using(host=host) as use:
        await use.sees("sleep 3")
        await host.stop()
        await use.sees("connection lost", "again in", "what you see is from before", "sleep 3", "▲ lost")
        assert use.app.screen.has_class("-stale")
        assert use.app.screen.query_one(Banner).display
        await host.start(host.port)
        host.put(running(4))
        await use.press("ctrl+r")
        await use.sees("sleep 4", "● live")
        assert not use.app.screen.has_class("-stale")
    await host.stop()


async def test_no_host_at_the_start_says_what_to_do() -> None:
    gone = Peer()
    await gone.start()
    await gone.stop()
    async with using(host=gone) as use:
        await use.sees("no connection", "hakuriver up", "not connected: see above")
        await gone.start(gone.port)
        gone.put(running(7))
        await use.sees("sleep 7")
        await use.press("q")
    await gone.stop()


async def test_an_empty_cluster_says_what_to_press() -> None:
    async with using() as use:
        await use.sees("no task yet: n submits one", "no node has joined yet", "● live")


async def test_freeze() -> None:
    async with using(*TASKS) as use:
        await use.press("z")
        await use.sees("FROZEN")
        use.host.put(running(77))
        await use.sees("● 4")  # the header goes on
        assert "sleep 77" not in use.text
        await use.press("z")
        await use.sees("sleep 77")


async def test_log_follows_searches_and_switches() -> None:
    async with using(*TASKS) as use:
        use.host.write(3, b"".join(b"line %d\n" % i for i in range(100)))
        use.host.write(3, b"an \x1b[31merror\x1b[0m\n", "stderr")
        await use.press("l")
        await use.sees("line 99", "following")
        use.host.write(3, b" 10%\r 90%\r")
        await use.sees(" 90%")
        assert " 10%" not in use.text
        await use.press("g")
        await use.sees("line 0 ")
        await use.press("slash")
        await use.type("line 5")
        await use.press("enter")
        await until(lambda: "line 5 " in use.lines[2])
        await use.press("n")
        await until(lambda: "line 50" in use.lines[2])
        await use.press("N")
        await until(lambda: "line 5 " in use.lines[2])
        await use.press("question_mark", "escape")
        assert "line 5 " in use.lines[2], "a look at the help loses no place"
        await use.press("s")
        await use.sees("stderr of 3", "an error")


async def test_hidden_views_read_no_logs() -> None:
    async with using(*TASKS) as use:
        await use.sees("nothing on stdout yet")
        log = use.app.screen.query_one(LogView)
        await use.press("3")
        assert not log.reading
        await use.press("1")
        await until(lambda: log.reading)


async def test_a_hundred_thousand_tasks_are_usable() -> None:
    async with using(node("n1"), size=(160, 48)) as use:
        await use.press("3")
        first = task(0)
        many = {i: first | {"id": i, "command": ["sleep", str(i)]} for i in range(100_000)}
        use.table.sync(many)
        await use.sees("sleep 99999")
        await use.press("G")
        await use.sees("sleep 0 ")
        await use.press("g")
        await use.press("slash")
        await use.type("state:completed /sleep 7{3,4} /")
        await use.sees("2 of 100000")


def test_every_footer_action_has_a_key() -> None:
    assert all(action.keys for action in ACTIONS if action.footer)
