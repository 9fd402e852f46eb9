"""What every screen over the cluster shares: its frame, its subscription, its filter and its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget

from hakuriver.errors import UsageError
from tui.actions import available
from tui.filters import Grammar
from tui.live import Changes, Link
from tui.messages import KeyboardMoved, PromptChanged, PromptClosed, SearchAsked
from tui.program import Program
from tui.session import Session
from tui.widgets.bars import Banner, Footer, Header, Notice
from tui.widgets.log_view import LogView
from tui.widgets.prompt import PROMPT_KEYS, Prompt
from tui.widgets.table import AnyTable


class ClusterScreen(Screen[None]):
    """A screen that draws from the mirror. It listens only while it is the one in front."""

    VIEW: ClassVar[str] = ""
    GRAMMAR: ClassVar[Grammar[Any] | None] = None
    PROBLEM: ClassVar[Callable[[Any], bool] | None] = None

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.filter_text = ""
        self.only_problems = False
        self._searched = ""
        self._asked_from: Widget | None = None
        self._prompt: Prompt | None = None
        # held here, not looked up: a notice or a change may come while the screen is made or torn down
        self._top = Header(id="header")
        self._banner = Banner(id="banner")
        self._notice = Notice(id="notice")
        self._bottom = Footer(id="footer")

    def compose(self) -> ComposeResult:
        yield self._top
        yield self._banner
        with Vertical(id="body"):
            yield from self.compose_body()
        yield self._notice
        yield self._bottom

    def compose_body(self) -> ComposeResult:
        yield from ()

    # what subclasses say

    @property
    def table(self) -> AnyTable | None:
        """The table that filters and marks mean here."""
        return None

    @property
    def tabs(self) -> tuple[str, ...]:
        """The names of this screen's tabs, when it has more than one."""
        return ()

    def turn_to(self, step: int) -> None:
        """Show a tab further right or left."""

    def answered(self, kind: str, text: str) -> None:
        """Somebody answered a prompt of a kind that only the screen knows."""

    def refresh_data(self, changes: Changes) -> None:
        """Take in what changed in the mirror."""

    def tick(self) -> None:
        """Once a second, while in front."""

    # frame

    @property
    def hakuriver(self) -> Program:
        return cast("Program", self.app)

    def apply(self, changes: Changes) -> None:
        """Draw what changed, unless the view is frozen."""
        if not self.session.frozen:
            self.refresh_data(changes)
        self.refresh_frame()

    def refresh_frame(self) -> None:
        mirror = self.session.mirror
        self.set_class(mirror.status.link is not Link.LIVE and mirror.status.ever_live, "-stale")
        self._top.show(mirror, self.session.label, self.VIEW, frozen=self.session.frozen)
        self._banner.show(mirror, self.session.remote.endpoint.url)
        self.show_footer()

    def show_footer(self) -> None:
        if keys := self.typing_keys:
            self._bottom.show_typing(keys)
        else:
            shells = self.session.shells
            self._bottom.show(self, note=f"shells: {' '.join(shells)}" if shells else "")

    @property
    def typing_keys(self) -> tuple[tuple[str, str], ...]:
        """What few keys mean while all others are text for somebody."""
        return PROMPT_KEYS if self.query(Prompt) else ()

    def say(self, text: str, tone: str = "info") -> None:
        """Something that people should read; it stays for some seconds."""
        self.hakuriver.notice(text, tone)

    def put_notice(self, text: str, tone: str) -> None:
        self._notice.say(text, tone)

    def on_screen_resume(self) -> None:
        self.apply(Changes(reset=True, link=True))
        self.hakuriver.show_notice()

    def on_descendant_focus(self) -> None:
        self.call_after_refresh(self.show_footer)

    def on_resize(self) -> None:
        self.call_after_refresh(self.refresh_frame)

    def waiting_text(self, empty: str) -> str:
        """What stands where there is nothing: still connecting, nothing matches, or what to press."""
        mirror = self.session.mirror
        if mirror.status.link is not Link.LIVE and not mirror.status.ever_live:
            return "connecting…" if mirror.status.link is Link.CONNECTING else "not connected: see above"
        if self.filter_text or self.only_problems:
            return "nothing matches the filter: esc clears it"
        return empty

    # filter

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        if action in ("filter", "problems"):
            return self.table is not None
        if action in ("next_tab", "previous_tab"):
            return len(self.tabs) > 1
        return True

    def apply_filter(self) -> str:
        """Filter the table by what is set; returns what is wrong with it (then the last good one stays)."""
        table, grammar, problem = self.table, self.GRAMMAR, type(self).PROBLEM
        if table is None or grammar is None:
            return ""
        try:
            test = replace(grammar, text=table.rows.remembered(grammar.text)).parse(self.filter_text)
        except UsageError as error:
            return f"{error.message}  {error.hint}"
        if self.only_problems and problem is not None:
            table.filter_rows(lambda row: problem(row) and (test is None or test(row)))
        else:
            table.filter_rows(test)
        self.refresh_data(Changes())
        return ""

    def set_filter(self, text: str) -> None:
        self.filter_text = text
        self.apply_filter()

    def action_filter(self) -> None:
        value = self.filter_text or self.session.last_filter
        fields = self.GRAMMAR.fields if self.GRAMMAR else ()
        if self.GRAMMAR is not None and self.table is not None:
            self.table.get_ready(self.GRAMMAR.text)
        self.ask("filter", "/", value, lambda: [f"{field}:" for field in fields])

    def action_next_tab(self) -> None:
        self.turn_to(1)

    def action_previous_tab(self) -> None:
        self.turn_to(-1)

    def action_problems(self) -> None:
        self.only_problems = not self.only_problems
        self.apply_filter()

    def ask(self, kind: str, sign: str, value: str, suggestions: Callable[[], list[str]]) -> None:
        """Open the prompt; its answer comes as PromptClosed."""
        if not self.query(Prompt):
            self._asked_from = self.focused
        for old in self.query(Prompt):
            old.remove()
        history = self.session.histories.setdefault(kind, [])
        self._prompt = Prompt(kind, sign, value, history, suggestions)
        self.mount(self._prompt, before="#footer")
        self.call_after_refresh(self.show_footer)

    @property
    def keyboard_moves(self) -> bool:
        """Whether the keyboard is on its way to the prompt, or back."""
        return self._prompt is not None and not self._prompt.listens

    def on_prompt_changed(self, message: PromptChanged) -> None:
        if message.kind == "filter":
            self.filter_text = message.text
            wrong = self.apply_filter()
            for prompt in self.query(Prompt):
                prompt.complain(wrong)

    async def on_prompt_closed(self, message: PromptClosed) -> None:
        await self.query(Prompt).remove()
        if message.kind == "search":
            self._search_log(message.text)
        else:
            self._focus_again()
        if message.kind == "filter":
            if message.text:
                self.session.last_filter = message.text
            self.set_filter(message.text or "")
        elif message.kind == "command" and message.text:
            await self._run_command(message.text.strip().lstrip(":"))
        elif message.text is not None:
            self.answered(message.kind, message.text)
        self.show_footer()
        self._prompt_is_gone()

    def _prompt_is_gone(self) -> None:
        self._prompt = None
        self.app.call_later(self.app.post_message, KeyboardMoved())  # after the focus, which waits there, too

    def _focus_again(self) -> None:
        """Back to where the keyboard was: Textual moves on to whatever comes next."""
        before = self._asked_from if self._asked_from is not None else self.table
        if before is not None and before.is_attached:
            before.focus()

    def on_search_asked(self, message: SearchAsked) -> None:
        self._searched = message.sender
        self.ask("search", "/", "", list)

    def _search_log(self, text: str | None) -> None:
        log = self.query_one(f"#{self._searched}", LogView)
        log.focus()
        if text is not None:
            log.search(text)

    async def _run_command(self, typed: str) -> None:
        found = {action.command: (action, node) for action, node in available(self)}
        near = [name for name in found if name.startswith(typed)]
        name = typed if typed in found else near[0] if len(near) == 1 else None
        if name is None:
            several = f": {' '.join(near)}" if near else "; ^p lists all"
            self.say(f"no command {typed!r} here{several}", "bad")
            return
        action, node = found[name]
        await self.app.run_action(action.id, node)

    def step_back(self) -> bool:
        """Undo one thing of this screen: prompt, range, filter, marks. False when there is none."""
        if prompts := self.query(Prompt):
            prompts.remove()
            self._prompt_is_gone()
            self.call_after_refresh(self.show_footer)
            return True
        table = self.table
        if table is not None and table.rows.range_from is not None:
            table.action_range()
            return True
        if self.filter_text or self.only_problems:
            self.only_problems = False
            self.set_filter("")
            return True
        if table is not None and table.rows.marks:
            table.rows.marks.clear()
            table.repaint()
            return True
        return False
