"""The ``span:`` grammar: one argument list stands for the product of its axes.

Written forms, alone or inside an argument (``--lr=span:[0.1,0.2]``):

* ``span:{1..3}``, ``span:{01..10}``, ``span:{0..10..5}``: whole numbers, with step, zero padding kept
* ``span:{A..Z}``: letters
* ``span:[a,b,c]``: a list of anything without a comma or bracket

bash expands an unquoted ``span:{1..2}`` into ``span:1 span:2``; that means the same: neighbours with the
same text around the span form one axis, and a change of kind or of step starts the next.

hakurun takes this module into containers: it runs on any Python from 3.8 on.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from hakuriver.errors import UsageError

if TYPE_CHECKING:
    _Argument = tuple["str | _Hole", ...]

MAX_RUNS = 100_000
_WRITTEN = re.compile(
    r"span:(?:\{(?P<first>[^{}\[\],]*?)\.\.(?P<last>[^{}\[\],]*?)(?:\.\.(?P<step>[^{}]*))?\}|\[(?P<items>[^\[\]]*)\])"
)
_SHELL_EXPANDED = re.compile(r"(?P<before>.*?)span:(?P<value>[^{}\[\]]*)\Z", re.DOTALL)
_OPTION = re.compile(r"--?(?P<name>[A-Za-z][\w.-]*?)[=:]?span:")
_ALONE = re.compile(r"--?(?P<name>[A-Za-z][\w.-]*)\Z")
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_LETTER = re.compile(r"[A-Za-z]\Z")


@dataclass(frozen=True)
class Axis:
    """One dimension of a sweep: ``label`` says which (the option's name where it has one), ``values`` in
    order; ``numbers``: they are the whole numbers of a range, not a list."""

    label: str
    values: tuple[str, ...]
    numbers: bool = False


@dataclass(frozen=True)
class _Hole:
    """The place of an axis inside an argument."""

    axis: int


@dataclass(frozen=True)
class Sweep:
    """A parsed argument list; iterate ``runs()`` for the product, last axis fastest."""

    axes: tuple[Axis, ...]
    arguments: tuple[_Argument, ...]

    def __len__(self) -> int:
        return prod(len(axis.values) for axis in self.axes)

    def summary(self, what: str, copies: int = 1) -> str:
        """``lr: 2 values × seed: 5 values = 10 tasks``; ``copies``: how many there are of each run."""
        factors = [counted(len(axis.values), "value", f"{axis.label}: ") for axis in self.axes]
        factors += [counted(copies, "target")] if copies > 1 else []
        total = counted(len(self) * copies, what)
        return f"{' × '.join(factors)} = {total}" if factors else total

    def numbers(self) -> frozenset[int]:
        """Which arguments are nothing but one number of a range, by index."""
        return frozenset(
            index
            for index, argument in enumerate(self.arguments)
            if len(holes := [part for part in argument if part != ""]) == 1
            and isinstance(hole := holes[0], _Hole)
            and self.axes[hole.axis].numbers
        )

    def runs(self) -> Iterator[tuple[str, ...]]:
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield tuple(
                "".join(values[part.axis] if isinstance(part, _Hole) else part for part in argument)
                for argument in self.arguments
            )


def counted(number: int, what: str, label: str = "") -> str:
    """``1 run``, ``2 runs``."""
    return f"{label}{number} {what}{'' if number == 1 else 's'}"


def parse(arguments: Sequence[str]) -> Sweep:
    """Find the axes of an argument list; without any it is a sweep of one run."""
    axes: list[Axis] = []
    parsed: list[_Argument] = []
    index = 0
    while index < len(arguments):
        text = arguments[index]
        if _WRITTEN.search(text):
            parsed.append(_written(text, _option(arguments, index), axes))
            index += 1
        elif (match := _SHELL_EXPANDED.match(text)) is not None:
            before, values = match["before"], _neighbours(arguments, index, match["before"])
            label = _option(arguments, index) or f"{before}span:{_ends(values)}"
            axes.append(Axis(label, tuple(values), _INTEGER.match(values[0]) is not None))
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


def _option(arguments: Sequence[str], index: int) -> str:
    """The option that an argument is of or the value of, without its dashes; empty for none."""
    own = _OPTION.match(arguments[index])
    if own is not None:
        return own["name"]
    alone = index and arguments[index].startswith("span:") and _ALONE.match(arguments[index - 1])
    return alone["name"] if alone else ""


def _ends(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]}…{values[-1]}"


def _written(text: str, option: str, axes: list[Axis]) -> _Argument:
    parts: list[str | _Hole] = []
    position = 0
    for match in _WRITTEN.finditer(text):
        parts.append(text[position : match.start()])
        label = match[0] if position or not option else option
        axes.append(Axis(label, _values(match), _numeric(match)))
        parts.append(_Hole(len(axes) - 1))
        position = match.end()
    parts.append(text[position:])
    return tuple(parts)


def _numeric(match: re.Match[str]) -> bool:
    return match["items"] is None and _INTEGER.match(match["first"]) is not None


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
    steps = {numbers[place] - numbers[place - 1] for place in range(1, len(numbers))}
    return len(steps) == 1 and 0 not in steps


def _position(value: str) -> tuple[str, int]:
    if _INTEGER.match(value):
        return "integer", int(value)
    if _LETTER.match(value):
        return ("upper" if value.isupper() else "lower"), ord(value)
    return "word", 0
