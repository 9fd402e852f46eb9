import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import UsageError
from hakuriver.target import NODE_NAME, Target, parse

names = st.from_regex(NODE_NAME, fullmatch=True).filter(lambda name: not name.endswith("\n"))
targets = st.builds(
    Target,
    node=names,
    numa=st.none() | st.integers(0, 9999),
    gpus=st.lists(st.integers(0, 9999), unique=True, max_size=8).map(lambda ids: tuple(sorted(ids))),
)


@given(targets)
def test_what_is_written_is_read_back(target: Target) -> None:
    assert parse(str(target)) == target


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_one_clear_error(text: str) -> None:
    try:
        assert parse(str(parse(text))) == parse(text)
    except UsageError as error:
        assert "\n" not in error.message
        assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", Target("n1")),
        ("n1:0", Target("n1", 0)),
        ("n1::0,1", Target("n1", None, (0, 1))),
        ("n1:1::2,0", Target("n1", 1, (0, 2))),
        ("lab-a.example", Target("lab-a.example")),
    ],
)
def test_the_documented_forms(text: str, expected: Target) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "n1:",
        "n1::",
        "n1:x",
        "n1::a",
        "n1::0,",
        "n1::,0",
        "n1:-1",
        "n1:0:1",
        "n1:::0",
        "-n",
        "n 1",
        "n1\n",
        "n1:٣",
    ],
)
def test_bad_targets_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_gpu_named_twice_has_its_own_code() -> None:
    with pytest.raises(UsageError, match="names GPU 1 twice") as caught:
        parse("n1::1,1")
    assert caught.value.instance_code == "duplicate_gpu"
