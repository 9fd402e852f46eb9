"""The form gives exactly the request that the host takes, or one line for the field that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.wire import SubmitRequest
from tests.tui.peer import task
from tui.command_lines import submit_line
from tui.form import FIELDS, completion, from_task, parse

NODES = {"n1", "gpu-1", "gpu-2"}


def test_everything() -> None:
    typed = {
        "command": "python t.py --lr '0 1'",
        "target": "n1:0::1,0 gpu-1",
        "cores": "2.5",
        "memory": "4GiB",
        "name": "train",
        "tags": "a b",
        "env": "A=1 B='x y'",
        "image": "python:3.12",
    }
    parsed = parse(typed, NODES)
    assert not parsed.errors
    assert parsed.body == {
        "command": ["python", "t.py", "--lr", "0 1"],
        "targets": ["n1:0::0,1", "gpu-1"],
        "cores": 2.5,
        "memory": 4 * 2**30,
        "name": "train",
        "tags": ["a", "b"],
        "env": {"A": "1", "B": "x y"},
        "image": "python:3.12",
    }
    assert submit_line(parsed.body) == (
        "hakuriver task submit --target n1:0::0,1 --target gpu-1 --cores 2.5 --memory 4294967296 "
        "--name train --image python:3.12 --tag a --tag b --env A=1 --env 'B=x y' -- python t.py --lr '0 1'"
    )


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("command", "", "what should run"),
        ("command", "echo 'x", "quotation"),
        ("target", "n9", "no node 'n9'"),
        ("target", "n1::0,0", "twice"),
        ("target", "n1:x", "NUMA"),
        ("cores", "two", "cores"),
        ("memory", "4X", "size"),
        ("name", "Bad Name", "is not written right"),
        ("tags", "[x]", "is not written right"),
        ("env", "NOVALUE", "KEY=VALUE"),
        ("env", "1A=x", "environment variable"),
        ("env", "HAKURIVER_X=1", "HakuRiver itself"),
        ("container", "[/oops]", "written right"),
    ],
)
def test_each_field_says_what_is_wrong(field: str, text: str, says: str) -> None:
    parsed = parse({"command": "true", field: text}, NODES)
    assert set(parsed.errors) == {field}
    assert says in parsed.errors[field]


@given(st.dictionaries(st.sampled_from([field.id for field in FIELDS]), st.text(max_size=20)))
def test_any_typing_is_a_valid_request_or_an_error(typed: dict[str, str]) -> None:
    parsed = parse(typed, NODES)
    if parsed.errors:
        assert parsed.errors.keys() <= {field.id for field in FIELDS}
    else:
        SubmitRequest.model_validate(parsed.body)


def test_a_task_can_be_submitted_again() -> None:
    old = task(
        1, command=["sh", "-c", "echo 'x y' && true"], target="n1", memory=10**9, cores=0.5, tags=["a b"]
    )
    parsed = parse(from_task({**old, "tags": ["a"]}), NODES)
    assert parsed.body["command"] == old["command"]
    assert parsed.body["targets"] == ["n1"] and parsed.body["memory"] == 10**9 and parsed.body["cores"] == 0.5


def test_completion() -> None:
    assert completion("gp", NODES) == "gpu-1"
    assert completion("n1 gpu-2", NODES) is None
    assert completion("n1 g", NODES) == "n1 gpu-1"
    assert completion("gpu-1::0", NODES) is None
    assert completion("", NODES) is None
