"""The filter grammar, on real task rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import UsageError
from tests.tui.peer import running, task
from tui.catalog import TASK_GRAMMAR

TASKS = [
    task(1, state="failed", owner="ann", node="n1", name="train", command=["python", "train.py"]),
    task(2, state="completed", owner="bob", node="n1", tags=["night"], command=["make", "all"]),
    running(3, owner="ann", node="n2", command=["python", "eval.py"]),
    task(12, state="lost", owner="anna", node="n10", reason="node rebooted"),
]


def kept(written: str) -> list[int]:
    test = TASK_GRAMMAR.parse(written)
    return [each["id"] for each in TASKS if test is None or test(each)]


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("", [1, 2, 3, 12]),
        ("   ", [1, 2, 3, 12]),
        ("state:failed", [1]),
        ("state:failed,lost", [1, 12]),
        ("state:live", [3]),
        ("state:ended -state:completed", [1, 12]),
        ("owner:ann", [1, 3, 12]),
        ("OWNER:Ann node:n2", [3]),
        ("-node:n1", [3]),
        ("python", [1, 3]),
        ("python -train", [3]),
        ("tag:night", [2]),
        ("id:1", [1, 12]),
        ("batch:1", [1]),
        ("batch:1,3", [1, 3]),
        ("batch:", [1, 2, 3, 12]),
        ("/tr.in/", [1]),
        (r"/train\.py$|rebooted/", [12]),
        ("/PYTHON/ state:running", [3]),
        ("-/python/", [2, 12]),
        ("state:", [1, 2, 3, 12]),
        ("rebooted", [12]),
    ],
)
def test_terms(written: str, ids: list[int]) -> None:
    assert kept(written) == ids


@pytest.mark.parametrize(("written", "named"), [("/(/", "/(/"), ("colour:red", "'colour'")])
def test_what_is_wrong_is_named(written: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        TASK_GRAMMAR.parse(written)
    assert named in caught.value.message


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_a_clear_error(written: str) -> None:
    try:
        kept(written)
    except UsageError as error:
        assert error.message
