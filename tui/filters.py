"""The filter that people type, the same everywhere: ``state:failed,lost owner:ann -node:n1 /regex/ text``.

Terms are joined by *and*; commas inside a field term mean *or*; a leading ``-`` turns a term round.
A field term matches a value that starts with it (where numbers are names, as of batches, one that is it);
text and regular expressions look at the whole row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from hakuriver.errors import UsageError

Row = TypeVar("Row")
Values = Callable[[Row], Iterable[str]]
Test = Callable[[Row], bool]
_TERM = re.compile(r"(?P<not>-?)(?:/(?P<regex>(?:[^/\\]|\\.)*)(?:/|\Z)|(?P<word>\S+))(?:\s+|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Grammar(Generic[Row]):
    """What a kind of row offers to filters: named fields, and the lower-case text that free terms look at.

    ``exact``: fields whose values must be what was written, not only begin so.
    """

    fields: Mapping[str, Values[Row]]
    text: Callable[[Row], str]
    exact: frozenset[str] = frozenset()

    def parse(self, written: str) -> Test[Row] | None:
        """A test for rows, None for an empty filter; raises UsageError that names the wrong term."""
        tests = [self._term(match) for match in _TERM.finditer(written.strip()) if match[0].strip()]
        if not tests:
            return None
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _term(self, match: re.Match[str]) -> Test[Row]:
        if match["regex"] is not None:
            test = self._regex(match["regex"])
        else:
            field, colon, value = match["word"].partition(":")
            test = (
                self._field(field.lower(), value) if colon and field.isalpha() else self._free(match["word"])
            )
        return (lambda row: not test(row)) if match["not"] else test

    def _regex(self, pattern: str) -> Test[Row]:
        try:
            search = re.compile(pattern, re.IGNORECASE).search
        except re.error as error:
            raise UsageError(f"/{pattern}/ is not a regular expression: {error}") from None
        text = self.text
        return lambda row: search(text(row)) is not None

    def _free(self, word: str) -> Test[Row]:
        wanted, text = word.lower(), self.text
        return lambda row: wanted in text(row)

    def _field(self, field: str, value: str) -> Test[Row]:
        values = self.fields.get(field)
        if values is None:
            raise UsageError(f"there is no field {field!r}", hint=f"fields: {' '.join(self.fields)}")
        wanted = tuple(part for part in value.lower().split(",") if part)
        if not wanted:
            return lambda _: True

        exact = field in self.exact
        known: dict[str, bool] = {}  # most fields have few values, and a large table asks for them very often

        def test(row: Row) -> bool:
            for found in values(row):
                fits = known.get(found)
                if fits is None:
                    low = found.lower()
                    fits = known[found] = low in wanted if exact else low.startswith(wanted)
                if fits:
                    return True
            return False

        return test
