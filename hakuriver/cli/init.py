"""``init config`` and ``config show``: the settings as a file with every key explained, and as they are."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from hakuriver import config, endpoint, statedir
from hakuriver.cli import output
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.output import Column
from hakuriver.errors import ConfigError, Conflict, UsageError


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="F", help="where to write (default ~/.hakuriver/config.toml)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="section.key=value, comments stay"
    )
    parser.add_argument("--force", action="store_true", help="replace a file; the old one stays as F.bak")


def init(context: Context, options: argparse.Namespace) -> int:
    """Write a config file with every key explained, or change keys of one; make the credentials."""
    path = Path(options.config).expanduser() if options.config else config.config_path(context.environ)
    path = path.absolute()
    changed = dict(_assignment(text) for text in options.set)
    exists = path.exists()
    if exists and not changed and not options.force:
        raise Conflict(f"{path} exists", hint="--set section.key=value changes a key, --force writes it anew")
    text = _updated(_read(path), changed) if exists and not options.force else _updated(reference(), changed)
    _write(path, text, keep=exists and options.force)
    settings = config.load(path, environ={})
    folder = _credentials(settings, context)
    if context.json:
        output.print_json({"config": str(path), "credentials": str(folder)})
    elif not context.quiet:
        print(f"{'changed' if exists and not options.force else 'wrote'} {path}")
        print(f"credentials are in {folder}")
    return 0


def _credentials(settings: config.Settings, context: Context) -> Path:
    named = settings.paths.credentials_dir
    layout = endpoint.state_layout(settings, context.environ)
    if not named:
        statedir.make_private(layout.root)
    folder = Path(named).expanduser() if named else layout.credentials
    for token in ("user.token", "node.token", "host.token"):
        statedir.ensure_token(folder / token)
    return folder


def reference() -> str:
    """A config file that says nothing yet: every key with its meaning and default, commented out."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("HakuRiver settings. A line that is commented out shows the default."))
    document.add(tomlkit.comment("An environment variable HAKURIVER_SECTION_KEY is stronger than this file."))
    sections: dict[str, list[tuple[str, str]]] = {}
    for key, default, _ in config.Settings().items():
        section, name, _, doc = config.SETTINGS[key]
        sections.setdefault(section, []).append(
            (doc, f"{name} = {tomlkit.item(_plain(default)).as_string()}")
        )
    for section, lines in sections.items():
        table = tomlkit.table()
        for doc, line in lines:
            table.add(tomlkit.comment(doc))
            table.add(tomlkit.comment(line))
            table.add(tomlkit.nl())
        document.add(tomlkit.nl())
        document.add(section, table)
    return tomlkit.dumps(document).rstrip() + "\n"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise UsageError(f"--set {text!r} has no value", hint="write --set network.host_port=9000")
    if key not in config.SETTINGS:
        import difflib

        near = difflib.get_close_matches(key, list(config.SETTINGS), n=1, cutoff=0.5)
        raise ConfigError(
            f"unknown key {key}",
            hint=f"did you mean {near[0]}?" if near else "hakuriver config show lists all keys",
        )
    variable = f"HAKURIVER_{key.replace('.', '_').upper()}"
    try:
        typed = config.load(Path(os.devnull), environ={variable: value.strip()})
    except ConfigError as error:
        raise ConfigError(error.message.replace(variable, f"--set {key}"), hint=error.hint) from error
    section, name, *_ = config.SETTINGS[key]
    return key, _plain(getattr(getattr(typed, section), name))


def _updated(text: str, changed: dict[str, Any]) -> str:
    """A config text with some keys set; comments and order stay. A commented-out line of the key goes."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if not changed:
        return text
    for key, value in changed.items():
        section, name, *_ = config.SETTINGS[key]
        try:
            document = tomlkit.parse(text)
        except TOMLKitError as error:
            raise ConfigError(f"the config file is not valid TOML: {error}") from error
        if name in document.get(section, {}):
            document[section][name] = value
            text = tomlkit.dumps(document)
        else:
            text = _inserted(text, section, f"{name} = {tomlkit.item(value).as_string()}", f"# {name} = ")
    return text


def _inserted(text: str, section: str, line: str, commented: str) -> str:
    lines = text.splitlines()
    header = f"[{section}]"
    heads = [i for i, each in enumerate(lines) if each.partition("#")[0].strip() == header]
    if not heads:
        return "\n".join([*lines, *([""] if lines else []), header, line]) + "\n"
    start = heads[0] + 1
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("[")), len(lines))
    place = next((i for i in range(start, end) if lines[i].startswith(commented)), None)
    if place is None:
        lines.insert(start, line)
    else:
        lines[place] = line
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} can't be read: {error}") from error


def _write(path: Path, text: str, *, keep: bool) -> None:
    """Replace the file in one piece, once what we wrote is known to be readable."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        config.load(temporary, environ={})
        if keep:
            path.with_name(f"{path.name}.bak").write_bytes(path.read_bytes())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"config file {path} can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="F", help="another config file")
    parser.add_argument("--origin", action="store_true", help="say what decided each: env, file or default")


def show(context: Context, options: argparse.Namespace) -> int:
    """Settings as they are in force."""
    path = Path(options.config).expanduser() if options.config else None
    items = config.load(path, environ=context.environ).items()
    if context.json:
        output.print_json(
            [{"key": key, "value": _plain(value), "origin": origin} for key, value, origin in items]
        )
        return 0
    columns = [Column("KEY"), Column("VALUE", flexible=True), *([Column("ORIGIN")] if options.origin else [])]
    output.table(
        columns, [[key, _text(value), *([origin] if options.origin else [])] for key, value, origin in items]
    )
    return 0


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        os.pathsep.join(value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


VERBS = {
    "init config": Verb(
        init,
        _init_options,
        examples=("hakuriver init config", "hakuriver init config --set network.host_port=9000"),
    ),
    "config show": Verb(show, _show_options, examples=("hakuriver config show --origin",)),
}
