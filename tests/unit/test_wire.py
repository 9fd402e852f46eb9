import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hakuriver import fields, nodewire, wire


def spec(**changes: object) -> nodewire.AttemptSpec:
    facts = {
        "task": 1,
        "attempt": 1,
        "owner": "ann",
        "command": ["true"],
        "executor": "process",
        "cores": 1,
        "memory": 0,
        "target": "n1",
    }
    return nodewire.AttemptSpec.model_validate(facts | changes)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).filter(
            lambda n: not n.startswith("HAKURIVER_")
        ),
        st.text("ab", max_size=3),
    )
)
def test_the_digest_does_not_depend_on_order_or_a_round_trip(env: dict[str, str]) -> None:
    one = spec(env=env)
    two = spec(env=dict(reversed(env.items())))
    assert (
        one.digest()
        == two.digest()
        == nodewire.AttemptSpec.model_validate_json(one.model_dump_json()).digest()
    )
    assert one.digest() != spec(env=env, command=["false"]).digest()


@pytest.mark.parametrize(
    "body",
    [
        {"command": []},
        {"command": ["a\0b"]},
        {"command": ["\udcff"]},
        {"command": ["true"], "cores": -1},
        {"command": ["true"], "cores": float("nan")},
        {"command": ["true"], "memory": -5},
        {"command": ["true"], "env": {"A=B": "x"}},
        {"command": ["true"], "env": {"HAKURIVER_TASK_ID": "5"}},
        {"command": ["true"], "workdir": "relative"},
        {"command": ["true"], "workdir": "/a/../b"},
        {"command": ["true"], "name": "Upper"},
        {"command": ["true"], "image": "-rm"},
        {"command": ["true"], "container": "../x"},
        {"command": ["true"], "mounts": [{"source": "x", "target": "/x"}]},
        {"command": ["true"], "comand": 1},
    ],
)
def test_what_makes_no_sense_is_refused_at_the_edge(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        wire.SubmitRequest.model_validate(body)
    message = fields.clear_message(caught.value.errors())
    assert "\n" not in message
    json.dumps(message)


@pytest.mark.parametrize(
    "name",
    [
        *("busybox", "python:3.12-slim", "ghcr.io/a/b:c", "localhost:5000/x/y@sha256:" + "a" * 64),
        *("127.0.0.1:4321/x:1", "sha256:" + "b" * 64, "hakuriver/torch:base", "a/b_c/d--e:V1"),
    ],
)
def test_names_of_images(name: str) -> None:
    assert wire.SubmitRequest(command=["a"], image=name).image == name


@pytest.mark.parametrize(
    "name",
    [
        *("a/../../containers/x", "UPPER:1", "a//b", "/a", "a:", "a/./b", ".a", "a b", "-x", "a/..", "x\n"),
        *("x@sha256:12", "", "a" * 256, "a?b", "a%2e"),
    ],
)
def test_what_is_no_name_of_an_image(name: str) -> None:
    with pytest.raises(ValidationError):
        wire.SubmitRequest(command=["a"], image=name)
