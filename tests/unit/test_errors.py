import json

import pytest

from hakuriver import errors


def tree(kind: type[errors.HakuRiverError]) -> list[type[errors.HakuRiverError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in tree(below))]


KINDS = [kind for kind in tree(errors.HakuRiverError)[1:] if kind.__module__ == "hakuriver.errors"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_the_wire_unchanged(kind: type[errors.HakuRiverError]) -> None:
    before = kind("what is wrong", hint="what to do")
    after = errors.from_json(before.http_status, json.loads(json.dumps(before.to_json())))
    assert after.to_json() == before.to_json()
    assert (after.exit_code, after.http_status) == (before.exit_code, before.http_status)


def test_the_docstring_shows_the_whole_tree() -> None:
    for kind in KINDS:
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("body", [None, [], "text", {"error": "text"}, {"detail": "x"}])
def test_a_strange_answer_is_still_one_clear_error(body: object) -> None:
    assert "unexpected answer (HTTP 502)" in str(errors.from_json(502, body))
