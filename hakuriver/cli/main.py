"""The entry point: finds the command, runs it, and renders every error in one place."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hakuriver import __version__
from hakuriver.cli import commands, versions
from hakuriver.cli.codes import CLOSED_PIPE, INTERRUPTED
from hakuriver.cli.context import Context
from hakuriver.cli.local import explained
from hakuriver.cli.output import print_error
from hakuriver.cli.parsing import GLOBAL_FLAGS, GLOBAL_VALUES, Parser, not_empty
from hakuriver.errors import ConfigError, HakuRiverError, Unreachable, UsageError


def run() -> None:
    """``hakuriver``: leaves with the exit code of ``cli.md``."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = main(sys.argv[1:], os.environ)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = CLOSED_PIPE
    # Nothing after this line may meet a closed pipe or a second Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if code == CLOSED_PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command line; errors are rendered on stderr, the exit code is returned."""
    before, command = _split(arguments)
    as_json = "--json" in before or environ.get("HAKURIVER_JSON") == "1"
    context = Context(json=as_json, command=command, environ=environ)
    try:
        return _dispatch(before, context)
    except HakuRiverError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except OSError as error:
        if error.filename is None:  # no file of somebody's that can't be used: a bug, or a closed pipe
            raise
        print_error(ConfigError(f"{error.filename} can't be used: {error.strerror}"), as_json=as_json)
        return ConfigError.exit_code


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    if "--" not in arguments:
        return list(arguments), None
    place = list(arguments).index("--")
    return list(arguments[:place]), tuple(arguments[place + 1 :])


def _dispatch(before: list[str], context: Context) -> int:
    words, context, rest, wants = _leading(before, context)
    if wants == "--version":
        print(f"hakuriver {__version__}")
        return 0
    name = commands.resolve(words) if words else None
    if words and name is None and wants is None:
        raise UsageError(f"hakuriver {words[0]} needs a verb", hint=f"hakuriver {words[0]} --help")
    if wants == "--help" and name is None:
        print(commands.overview(words[0] if words else None))
        return 0
    if name is None:
        if context.command is not None:
            raise UsageError("what should be done with the command?", hint="hakuriver run -- COMMAND")
        return _attempt(commands.load(commands.PLAIN), context, argparse.Namespace())
    return _attempt(*_parsed(name, rest, context))


def understands(arguments: Sequence[str]) -> str:
    """Why a command line can't be understood, empty when it can; nothing is run. For docs and their tests."""
    before, command = _split(arguments)
    try:
        words, context, rest, wants = _leading(before, Context(json=False, command=command, environ={}))
        name = commands.resolve(words)
        if wants is None:
            if name is None:
                return f"hakuriver {' '.join(words)} needs a verb"
            _parsed(name, rest, context)
    except HakuRiverError as error:
        return error.message
    return ""


def _leading(before: list[str], context: Context) -> tuple[list[str], Context, list[str], str | None]:
    """Global options up to the command's name: (words, context, what follows, --help or --version)."""
    words: list[str] = []
    place = 0
    while place < len(before):
        word = before[place]
        option, equals, value = word.partition("=")
        if word in GLOBAL_FLAGS:
            context = replace(context, **{GLOBAL_FLAGS[word]: True})  # type: ignore[arg-type]
        elif option in GLOBAL_VALUES:
            if not equals:
                place += 1
                if place == len(before):
                    raise UsageError(f"{option}: expected one argument", hint="hakuriver --help")
                value = before[place]
            context = replace(context, **{GLOBAL_VALUES[option]: not_empty(value)})  # type: ignore[arg-type]
        elif word in ("-h", "--help", "--version"):
            return words, context, [], "--version" if word == "--version" else "--help"
        elif word.startswith("-"):
            raise UsageError(f"hakuriver has no option {option}", hint="hakuriver --help lists all of them")
        else:
            words.append(word)
            if len(words) == 2 or word not in commands.groups():
                return words, context, before[place + 1 :], None
        place += 1
    return words, context, [], None


def _parsed(
    name: str, rest: list[str], context: Context
) -> tuple[commands.Verb, Context, argparse.Namespace]:
    verb = commands.load(name)
    if context.command is not None and not verb.takes_command:
        raise UsageError(f"hakuriver {name} takes no command after --", hint=f"hakuriver {name} --help")
    parser = Parser(name, commands.rows()[name].summary, verb.examples, command=verb.takes_command)
    verb.options(parser)
    parser.add_globals()
    options = parser.parse(rest)
    given = {
        key: value
        for key in {*GLOBAL_FLAGS.values(), *GLOBAL_VALUES.values()}
        if (value := getattr(options, key, None))
    }
    return verb, replace(context, **given), options


def _attempt(verb: commands.Verb, context: Context, options: argparse.Namespace) -> int:
    try:
        return verb.run(context, options)
    except Unreachable as error:
        if error.instance_code != Unreachable.code:
            raise
        raise explained(context.endpoint(), error) from error
    except HakuRiverError as error:
        if error.instance_code not in versions.SUSPICIOUS:
            raise
        found = versions.explained(context.client(), error)
        if found is error:
            raise
        raise found from error
