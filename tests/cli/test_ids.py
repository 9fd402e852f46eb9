"""What people write for tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli import ids
from hakuriver.errors import UsageError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["7"], [7]),
        (["4,6"], [4, 6]),
        (["4-6"], [4, 5, 6]),
        (["3", "9-9", "train,@last"], [3, 9, "train", "@last"]),
        (["exp-1"], ["exp-1"]),
        (["a1-3"], ["a1-3"]),
    ],
)
def test_forms(words: list[str], expected: list[int | str]) -> None:
    assert ids.parse(words) == expected


@pytest.mark.parametrize(
    "word", ["", "4,", "-3", "4-", "Train", "@first", "1.5", "9-4", "1-99999", "٣", "a/b"]
)
def test_nonsense_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError):
        ids.parse([word])


def test_a_backward_range_says_how_to_write_it() -> None:
    with pytest.raises(UsageError) as caught:
        ids.parse(["9-4"])
    assert caught.value.hint == "write 4-9"


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
def test_lists_keep_their_order(numbers: list[int]) -> None:
    assert ids.parse([",".join(map(str, numbers))]) == numbers


@given(st.text(max_size=20))
def test_any_text_gives_ids_or_a_usage_error(text: str) -> None:
    try:
        found = ids.parse([text])
    except UsageError:
        return
    assert found and all(isinstance(each, int | str) for each in found)
