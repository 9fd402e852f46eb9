"""README and docs say what is true: run by ``make check``.

Every ``hakuriver`` and ``hakurun`` line in a ``sh`` block must be understood by the real parser, every
linked file must exist, and docs/config.md must be what the settings say (``python -m tests.docs --write``
writes it).
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from hakuriver.config import SETTINGS, Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIG_PAGE = ROOT / "docs" / "config.md"


def commands(page: Path) -> list[list[str]]:
    """The ``hakuriver`` and ``hakurun`` commands of a page's ``sh`` blocks, as argument lists."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and line[0] in ("hakuriver", "hakurun")]


def config_page() -> str:
    """docs/config.md, made from the one home of every default."""
    lines = [
        "# Settings",
        "",
        "Made from `hakuriver/config.py`; `hakuriver init config` writes a file with all of them.",
        "",
    ]
    lines += [
        "Strongest first: flag, variable `HAKURIVER_<SECTION>_<KEY>`, config file, default. The file is"
    ]
    lines += ["`~/.hakuriver/config.toml`, or what `HAKURIVER_CONFIG` or `--config` names.", ""]
    defaults = Settings()
    section = ""
    for name, key, kind, doc in SETTINGS.values():
        if name != section:
            section = name
            lines += [
                "",
                f"## [{section}]",
                "",
                "| key | default | meaning |",
                "|---|---|---|",
            ]
        value = getattr(getattr(defaults, section), key)
        shown = (
            "[]"
            if value == ()
            else str(value).lower()
            if kind is bool
            else f'"{value}"'
            if kind is str
            else str(value)
        )
        lines.append(f"| `{key}` | `{shown}` | {doc} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def misunderstood(command: list[str]) -> str:
    """Why a command line can't be understood, empty when it can."""
    from hakuriver import sweep
    from hakuriver.cli import hakurun
    from hakuriver.cli.main import understands
    from hakuriver.errors import UsageError

    if command[0] == "hakuriver":
        return understands(command[1:])
    try:
        _, target = hakurun.options(command[1:])
        sweep.parse(target)
    except UsageError as error:
        return error.message
    return ""


def problems() -> list[str]:
    found = []
    for page in PAGES:
        name = page.relative_to(ROOT)
        for command in commands(page):
            if wrong := misunderstood(command):
                found.append(f"{name}: {shlex.join(command)}: {wrong}")
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            if not (page.parent / link).exists():
                found.append(f"{name}: {link} does not exist")
    if CONFIG_PAGE.read_text("utf-8") != config_page():
        found.append("docs/config.md is not what hakuriver/config.py says: python -m tests.docs --write")
    return found


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        CONFIG_PAGE.write_text(config_page(), "utf-8")
        return 0
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
