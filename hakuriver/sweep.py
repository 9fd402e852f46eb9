"""The ``span:`` grammar: one argument list stands for the product of its axes.

Written forms, alone or inside an argument (``--lr=span:[0.1,0.2]``):

* ``span:{1..3}``, ``span:{01..10}``, ``span:{0..10..5}``: whole numbers, with step, zero padding kept
* ``span:{A..Z}``: letters
* ``span:[a,b,c]``: a list of anything without a comma or bracket

bash expands an unquoted ``span:{1..2}`` into ``span:1 span:2``; that means the same: neighbours with the
same text around the span form one axis, and a change of kind or of step starts the next.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from hakuriver.errors import UsageError

MAX_RUNS = 100_000
_WRITTEN = re.compile(
    r"span:(?:\{(?P<first>[^{}\[\],]*?)\.\.(?P<last>[^{}\[\],]*?)(?:\.\.(?P<step>[^{}]*))?\}|\[(?P<items>[^\[\]]*)\])"
)
_SHELL_EXPANDED = re.compile(r"(?P<before>.*?)span:(?P<value>[^{}\[\]]*)\Z", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_LETTER = re.compile(r"[A-Za-z]\Z")


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of a sweep: ``label`` shows where it stands, ``values`` in order."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Hole:
    """The place of an axis inside an argument."""

    axis: int


_Argument = tuple[str | _Hole, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A parsed argument list; iterate ``runs()`` for the product, last axis fastest."""

    axes: tuple[Axis, ...]
    arguments: tuple[_Argument, ...]

    def __len__(self) -> int:
        return prod(len(axis.values) for axis in self.axes)

    def runs(self) -> Iterator[tuple[str, ...]]:
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield tuple(
                "".join(values[part.axis] if isinstance(part, _Hole) else part for part in argument)
                for argument in self.arguments
            )


def parse(arguments: Sequence[str]) -> Sweep:
    """Find the axes of an argument list; without any it is a sweep of one run."""
    axes: list[Axis] = []
    parsed: list[_Argument] = []
    index = 0
    while index < len(arguments):
        text = arguments[index]
        if _WRITTEN.search(text):
            parsed.append(_written(text, axes))
            index += 1
        elif (match := _SHELL_EXPANDED.match(text)) is not None:
            before, values = match["before"], _neighbours(arguments, index, match["before"])
            axes.append(Axis(f"{before}span:", tuple(values)))
            parsed.append((before, _Hole(len(axes) - 1)))
            index += len(values)
        elif "span:{" in text or "span:[" in text:
            raise UsageError(
                f"{text!r}: this span can't be understood",
                hint="write span:{1..3}, span:{A..Z} or span:[a,b,c]",
            )
        else:
            parsed.append((text,))
            index += 1
    sweep = Sweep(tuple(axes), tuple(parsed))
    if len(sweep) > MAX_RUNS:
        raise UsageError(f"this sweep has {len(sweep)} runs, the most is {MAX_RUNS}")
    return sweep


def _written(text: str, axes: list[Axis]) -> _Argument:
    parts: list[str | _Hole] = []
    position = 0
    for match in _WRITTEN.finditer(text):
        parts.append(text[position : match.start()])
        axes.append(Axis(match[0], _values(match)))
        parts.append(_Hole(len(axes) - 1))
        position = match.end()
    parts.append(text[position:])
    return tuple(parts)


def _values(match: re.Match[str]) -> tuple[str, ...]:
    if match["items"] is not None:
        return tuple(match["items"].split(","))
    first, last, step_text = match["first"], match["last"], match["step"]
    if step_text is not None and (not _INTEGER.match(step_text) or int(step_text) == 0):
        raise UsageError(f"{match[0]!r}: the step must be a whole number other than 0")
    step = abs(int(step_text)) if step_text is not None else 1
    if _INTEGER.match(first) and _INTEGER.match(last):
        numbers = _range(match[0], int(first), int(last), step)
        padded = any(re.match(r"-?0[0-9]", end) for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return tuple(f"{number:0{width}d}" for number in numbers)
    if _LETTER.match(first) and _LETTER.match(last) and first.isupper() == last.isupper():
        return tuple(chr(code) for code in _range(match[0], ord(first), ord(last), step))
    raise UsageError(f"{match[0]!r}: a range goes from number to number or from letter to letter")


def _range(text: str, first: int, last: int, step: int) -> range:
    found = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    if len(found) > MAX_RUNS:
        raise UsageError(f"{text!r} has {len(found)} values, the most is {MAX_RUNS}")
    return found


def _neighbours(arguments: Sequence[str], start: int, before: str) -> list[str]:
    """The values of one shell-expanded axis that begins at ``start``."""
    prefix = f"{before}span:"
    values: list[str] = []
    for text in arguments[start:]:
        if not text.startswith(prefix) or _SHELL_EXPANDED.match(text) is None:
            break
        value = text[len(prefix) :]
        if values and not _continues(values, value):
            break
        values.append(value)
    return values


def _continues(values: list[str], value: str) -> bool:
    positions = [_position(each) for each in (*values[-2:], value)]
    kinds = {kind for kind, _ in positions}
    if len(kinds) > 1:
        return False
    if kinds == {"word"}:
        return value not in values
    numbers = [number for _, number in positions]
    steps = {after - earlier for earlier, after in itertools.pairwise(numbers)}
    return len(steps) == 1 and 0 not in steps


def _position(value: str) -> tuple[str, int]:
    if _INTEGER.match(value):
        return "integer", int(value)
    if _LETTER.match(value):
        return ("upper" if value.isupper() else "lower"), ord(value)
    return "word", 0
