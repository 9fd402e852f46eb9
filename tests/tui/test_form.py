"""The form gives exactly the request that the host takes, or one line for the field that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.wire import SubmitRequest
from tests.tui.peer import gpu_node, node, task
from tests.tui.peer_environments import environment, new_environment
from tui.command_lines import submit_line
from tui.form import FIELDS, completion, count_of, from_task, has_span, parse, preview, with_gpus

NODES = {each["name"]: each for each in (node("n1"), gpu_node("gpu-1"), gpu_node("gpu-2", 4))}
NAMES = {"prep": 7}
ENVIRONMENTS = {each["name"]: each for each in (environment("torch"), new_environment("bare"))}


def test_everything() -> None:
    typed = {
        "command": "python t.py --lr '0 1'",
        "target": "gpu-1:0::1,0 n1",
        "cores": "2.5",
        "memory": "4GiB",
        "name": "train",
        "tags": "a b",
        "env": "A=1 B='x y'",
        "image": "python:3.12",
    }
    parsed = parse(typed, NODES, NAMES, ENVIRONMENTS)
    assert not parsed.errors
    assert parsed.body == {
        "command": ["python", "t.py", "--lr", "0 1"],
        "targets": ["gpu-1:0::0,1", "n1"],
        "cores": 2.5,
        "memory": 4 * 2**30,
        "name": "train",
        "tags": ["a", "b"],
        "env": {"A": "1", "B": "x y"},
        "image": "python:3.12",
    }
    assert submit_line(parsed.body) == (
        "hakuriver task submit --target gpu-1:0::0,1 --target n1 --cores 2.5 --memory 4294967296 "
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
        ("target", "n1:0", "has no NUMA node 0"),
        ("target", "gpu-1::8", "has no GPU 8"),
        ("target", "gpu-1:0::0,7", "GPU 7 of gpu-1 is on NUMA node 1"),
        ("container", "tensor", "no environment 'tensor'"),
        ("container", "bare", "bare was never packed"),
        ("container", "torch@x", "not a version of environment torch"),
        ("container", "Torch", "upper case"),
        ("gpus", "two", "number of GPUs"),
        ("gpus", "2:", "number of GPUs"),
        ("gpu_memory", "24G", "how many GPUs"),
        ("time_limit", "soon", "duration"),
        ("time_limit", "0", "longer than 0"),
        ("notice", "5m", "end of a time limit"),
        ("retries", "many", "whole number"),
        ("retries", "101", "less than or equal to 100"),
        ("priority", "1001", "less than or equal to 1000"),
        ("after", "nobody", "no living task 'nobody'"),
        ("after", "9-7", "backwards"),
        ("labels", "room", "label 'room'"),
        ("max_running", "2", "sweep, or several targets"),
        ("sweep", "yes", "no span: in the command"),
        ("cores", "two", "cores"),
        ("memory", "4X", "size"),
        ("name", "Bad Name", "is not written right"),
        ("tags", "[x]", "is not written right"),
        ("env", "NOVALUE", "KEY=VALUE"),
        ("env", "1A=x", "environment variable"),
        ("env", "HAKURIVER_X=1", "HakuRiver itself"),
        ("container", "[/oops]", "can't name an environment"),
    ],
)
def test_each_field_says_what_is_wrong(field: str, text: str, says: str) -> None:
    parsed = parse({"command": "true", field: text}, NODES, NAMES, ENVIRONMENTS)
    assert set(parsed.errors) == {field}
    assert says in parsed.errors[field]


@given(st.dictionaries(st.sampled_from([field.id for field in FIELDS]), st.text(max_size=20)))
def test_any_typing_is_a_valid_request_or_an_error(typed: dict[str, str]) -> None:
    parsed = parse(typed, NODES, NAMES, ENVIRONMENTS)
    if parsed.errors:
        assert parsed.errors.keys() <= {field.id for field in FIELDS}
    else:
        SubmitRequest.model_validate(parsed.body)


def test_a_task_can_be_submitted_again() -> None:
    old = task(
        1, command=["sh", "-c", "echo 'x y' && true"], target="n1", memory=10**9, cores=0.5, tags=["a b"]
    )
    parsed = parse(from_task({**old, "tags": ["a"]}), NODES, NAMES, ENVIRONMENTS)
    assert parsed.body["command"] == old["command"]
    assert parsed.body["targets"] == ["n1"] and parsed.body["memory"] == 10**9 and parsed.body["cores"] == 0.5


def test_what_a_task_may_ask_of_places_time_and_others() -> None:
    typed = {
        "command": "python t.py --lr=span:[0.1,0.01] --seed=span:{1..5}",
        "gpus": "2:a100",
        "gpu_memory": "40G",
        "time_limit": "2h",
        "notice": "TERM@5m",
        "retries": "3",
        "priority": "-5",
        "after": "prep 9-11",
        "labels": "room=b12 rack=3",
        "sweep": "yes",
        "max_running": "4",
        "hold": "yes",
        "pin": "yes",
    }
    parsed = parse(typed, NODES, NAMES, ENVIRONMENTS)
    assert not parsed.errors
    assert parsed.body == {
        "command": ["python", "t.py", "--lr=span:[0.1,0.01]", "--seed=span:{1..5}"],
        "gpu_count": 2,
        "gpu_model": "a100",
        "gpu_memory": 40 * 10**9,
        "time_limit": 7200.0,
        "notice": {"signal": 15, "seconds": 300.0},
        "retries": 3,
        "priority": -5,
        "after": [7, 9, 10, 11],
        "labels": {"room": "b12", "rack": "3"},
        "sweep": True,
        "max_running": 4,
        "hold": True,
        "pin": True,
    }
    assert submit_line(parsed.body) == (
        "hakuriver task submit --gpu-memory 40000000000 --priority -5 --time-limit 7200s --notice TERM@300s "
        "--retries 3 --after 7,9,10,11 --max-running 4 --gpus 2:a100 --label room=b12 --label rack=3 --hold "
        "--pin --sweep -- python t.py '--lr=span:[0.1,0.01]' '--seed=span:{1..5}'"
    )
    assert preview(parsed.body).startswith(
        "lr: 2 values × seed: 5 values = 10 tasks · the first: python t.py"
    )


def test_gpus_are_named_or_counted_but_not_both() -> None:
    parsed = parse({"command": "true", "target": "gpu-1::0", "gpus": "1"}, NODES, NAMES, ENVIRONMENTS)
    assert "give one of the two" in parsed.errors["gpus"]
    assert not parse({"command": "true", "target": "gpu-1", "gpus": "1"}, NODES, NAMES, ENVIRONMENTS).errors


def test_a_sweep_is_seen_while_it_is_typed() -> None:
    assert has_span("t.py --seed=span:{1..3}")
    assert not has_span("t.py --seed=span:{1..")
    assert not has_span("t.py 'span:[1,2]")
    assert not has_span("t.py spanish")
    assert preview({"command": ["a", "span:[1,2]"], "sweep": True, "targets": ["n1", "n2"]}).startswith(
        "span:[1,2]: 2 values × 2 targets = 4 tasks"
    )
    assert preview({"command": ["a", "span:[1,2]"]}) == "argv ['a', 'span:[1,2]']"


def test_the_number_of_gpus_and_their_model_are_apart() -> None:
    assert (count_of("3:a100"), count_of(""), count_of("x")) == (3, 0, 0)
    assert (with_gpus("3:a100", 2), with_gpus("", 2), with_gpus("3:a100", 0)) == ("2:a100", "2", "")


def test_completion() -> None:
    assert completion("gp", NODES) == "gpu-1"
    assert completion("n1 gpu-2", NODES) is None
    assert completion("n1 g", NODES) == "n1 gpu-1"
    assert completion("gpu-1::0", NODES) is None
    assert completion("", NODES) is None
