"""argparse with our errors: one clear line, the nearest option named, exit code 2."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from hakuriver.errors import HakuRiverError, UsageError

Value = TypeVar("Value")
GLOBAL_FLAGS = {"--json": "json", "-q": "quiet", "--quiet": "quiet"}
GLOBAL_VALUES = {"--host": "host", "--token-file": "token_file", "--state-dir": "state_dir"}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Most options and what they mean on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing usage and leaving."""

    def __init__(
        self, name: str, summary: str, examples: Sequence[str] = (), *, command: bool = False
    ) -> None:
        super().__init__(
            prog=f"hakuriver {name}",
            description=summary,
            epilog="\n".join(["examples:", *(f"  {each}" for each in examples)]) if examples else None,
            formatter_class=_Help,
            allow_abbrev=False,
            add_help=False,
        )
        self._name = name
        if command:
            self.usage = f"hakuriver {name} [options] -- COMMAND [ARGUMENT…]"

    def add_globals(self) -> None:
        """The options that every command takes, and --help; called last, so that they stand last."""
        group = self.add_argument_group("everywhere")
        group.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="plain data on stdout"
        )
        group.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="ids only")
        for option, name in GLOBAL_VALUES.items():
            if option not in self._option_string_actions:
                group.add_argument(
                    option, dest=name, type=typed(not_empty), metavar=_METAVAR[option], help=_HELP[option]
                )
        group.add_argument("-h", "--help", action="help", help="show this")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Options of a command; raises UsageError that names the nearest known option."""
        found, rest = self.parse_known_args(arguments)
        if not rest:
            return found
        wrong = rest[0].partition("=")[0]
        if not wrong.startswith("-"):
            raise UsageError(f"hakuriver {self._name} does not expect {rest[0]!r}", hint=self._help_hint())
        near = difflib.get_close_matches(wrong, list(self._option_string_actions), n=1, cutoff=0.6)
        raise UsageError(
            f"hakuriver {self._name} has no option {wrong}",
            hint=f"did you mean {near[0]}?" if near else self._help_hint(),
        )

    def error(self, message: str) -> NoReturn:
        """What argparse calls: ``argument --cores: expected one argument`` becomes ours."""
        text = re.sub(r"^argument ([^:]+): ", lambda match: f"{match[1].split('/')[-1]}: ", message)
        text = text.replace("the following arguments are required:", "missing:")
        raise UsageError(text, hint=self._help_hint())

    def _help_hint(self) -> str:
        return f"hakuriver {self._name} --help"


_METAVAR = {"--host": "URL", "--token-file": "F", "--state-dir": "D"}
_HELP = {
    "--host": "address of a host, with --token-file or HAKURIVER_TOKEN",
    "--token-file": "0600 file with the credential for --host",
    "--state-dir": "state folder of a cluster of this machine",
}


def typed(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """A parser of ours as an argparse ``type``: its message and hint come through."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except HakuRiverError as error:
            tail = f" ({error.hint})" if error.hint else ""
            raise argparse.ArgumentTypeError(f"{error.message}{tail}") from error

    return convert


def not_empty(text: str) -> str:
    """A value that says something: an unset shell variable must not mean the default cluster."""
    if not text:
        raise UsageError("an option names a cluster with an empty value")
    return text


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse ``type`` for whole numbers that are not too small, and not too large."""

    def convert(text: str) -> int:
        if (
            not re.fullmatch(r"-?\d{1,18}", text)
            or int(text) < least
            or (most is not None and int(text) > most)
        ):
            allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {allowed}")
        return int(text)

    return convert


def one_of(kind: str, known: Sequence[str]) -> Callable[[str], str]:
    """An argparse ``type`` for one of some words, with the nearest one named."""

    def convert(text: str) -> str:
        if text in known:
            return text
        near = difflib.get_close_matches(text, known, n=1)
        tail = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise argparse.ArgumentTypeError(f"unknown {kind} {text!r} ({tail})")

    return convert
