import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver import sweep
from hakuriver.errors import UsageError


def runs(*arguments: str) -> list[tuple[str, ...]]:
    return list(sweep.parse(arguments).runs())


def test_plain_arguments_are_one_run() -> None:
    assert runs("python", "train.py", "--lr=0.1") == [("python", "train.py", "--lr=0.1")]


def test_the_product_has_the_last_axis_fastest() -> None:
    assert runs("span:{1..2}", "x", "span:[a,b]") == [
        ("1", "x", "a"),
        ("1", "x", "b"),
        ("2", "x", "a"),
        ("2", "x", "b"),
    ]


def test_spans_inside_arguments() -> None:
    assert runs("--lr=span:[0.1,0.2]") == [("--lr=0.1",), ("--lr=0.2",)]
    assert runs("a-span:{1..2}-b-span:{X..Y}") == [("a-1-b-X",), ("a-1-b-Y",), ("a-2-b-X",), ("a-2-b-Y",)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("span:{3..1}", ["3", "2", "1"]),
        ("span:{-1..1}", ["-1", "0", "1"]),
        ("span:{08..10}", ["08", "09", "10"]),
        ("span:{0..10..5}", ["0", "5", "10"]),
        ("span:{A..C}", ["A", "B", "C"]),
        ("span:[]", [""]),
        ("span:[a,,b]", ["a", "", "b"]),
    ],
)
def test_forms(text: str, values: list[str]) -> None:
    assert [run[0] for run in runs(text)] == values


@pytest.mark.parametrize(
    "text",
    [
        "span:{1..}",
        "span:{a..3}",
        "span:{a..Z}",
        "span:{1..3..0}",
        "span:{1..999999999}",
        "span:{x",
        "span:[a",
    ],
)
def test_bad_spans(text: str) -> None:
    with pytest.raises(UsageError):
        sweep.parse([text])


def test_too_many_runs() -> None:
    with pytest.raises(UsageError, match="runs"):
        sweep.parse(["span:{1..1000}", "span:{1..1000}"])


def test_shell_expanded_neighbours_form_one_axis() -> None:
    found = sweep.parse(["--lr=span:1", "--lr=span:2", "--seed=span:1", "--seed=span:2", "--seed=span:3"])
    assert [axis.values for axis in found.axes] == [("1", "2"), ("1", "2", "3")]
    assert len(found) == 6


def test_a_change_of_step_or_kind_starts_another_axis() -> None:
    assert [axis.values for axis in sweep.parse(["span:1", "span:2", "span:1", "span:2"]).axes] == [
        ("1", "2")
    ] * 2
    assert [axis.values for axis in sweep.parse(["span:1", "span:2", "span:A", "span:B"]).axes] == [
        ("1", "2"),
        ("A", "B"),
    ]


@given(st.integers(-20, 20), st.integers(-20, 20), st.text("abx-=", max_size=4))
def test_what_bash_does_to_an_unquoted_span_means_the_same(first: int, last: int, prefix: str) -> None:
    written = f"{prefix}span:{{{first}..{last}}}"
    step = 1 if first <= last else -1
    expanded = [f"{prefix}span:{value}" for value in range(first, last + step, step)]
    assert set(runs(*expanded)) == set(runs(written))


def test_bash_itself_agrees() -> None:
    bash = shutil.which("bash")
    assert bash
    out = subprocess.run(
        [bash, "-c", "printf '%s\\n' --lr=span:{1..3} x span:{A..C}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert runs(*out.stdout.split()) == runs("--lr=span:{1..3}", "x", "span:{A..C}")


@given(st.lists(st.lists(st.integers(0, 99).map(str), min_size=1, max_size=4), max_size=4))
def test_length_is_the_number_of_runs(axes: list[list[str]]) -> None:
    found = sweep.parse([f"span:[{','.join(values)}]" for values in axes])
    assert list(found.runs()) == list(itertools.product(*axes))
    assert len(found) == len(list(found.runs()))


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["--lr=span:[1,2]", "-s=span:{1..2}"], ["lr", "s"]),
        (["--lr", "span:[1,2]"], ["lr"]),
        (["train.py", "span:{1..2}", "span:{A..B}"], ["span:{1..2}", "span:{A..B}"]),
        (["--size=span:{1..2}xspan:{3..4}"], ["size", "span:{3..4}"]),
        (["--lr=span:1", "--lr=span:2", "span:1", "span:2"], ["lr", "span:1…2"]),
        (["x-span:1"], ["x-span:1"]),
    ],
)
def test_an_axis_is_called_like_its_option(arguments: list[str], labels: list[str]) -> None:
    assert [axis.label for axis in sweep.parse(arguments).axes] == labels


def test_a_summary_counts_axes_and_runs() -> None:
    found = sweep.parse(["--lr=span:[1,2]", "--seed=span:{1..5}"])
    assert found.summary("task") == "lr: 2 values × seed: 5 values = 10 tasks"
    assert found.summary("task", 3) == "lr: 2 values × seed: 5 values × 3 targets = 30 tasks"
    assert sweep.parse(["--x=span:{1..1}"]).summary("run") == "x: 1 value = 1 run"
    assert sweep.parse(["true"]).summary("run") == "1 run"


def test_numbers_are_whole_arguments_of_number_ranges() -> None:
    arguments = ["f", "span:{1..2}", "x=span:{1..2}", "span:[1,2]", "span:{A..B}", "5", "span:{01..02}"]
    assert sweep.parse(arguments).numbers() == {1, 6}
    assert sweep.parse(["f", "span:1", "span:2", "span:A", "span:x"]).numbers() == {1}
