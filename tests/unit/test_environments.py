"""Names of environments and what is made of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver import environments
from hakuriver.environments import Reference
from hakuriver.errors import UsageError

NAMES = st.from_regex(environments.NAME_PATTERN, fullmatch=True).filter(
    lambda name: len(name) <= environments.MAX_NAME
)
VERSIONS = st.integers(0, environments.MAX_VERSION - 1)
DOCKER = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
"""A part of a repository's name, as Docker's own grammar has it (distribution/reference)."""


@given(NAMES, VERSIONS)
def test_names_come_back_from_everything_that_is_made_of_them(name: str, version: int) -> None:
    assert environments.check_name(name) == name
    assert environments.parse_reference(name) == Reference(name)
    assert environments.parse_reference(f"{name}@{version}") == Reference(name, version)
    assert str(environments.parse_reference(f"{name}@{version}")) == f"{name}@{version}"
    assert environments.parse_tarball(environments.tarball_name(name, version)) == Reference(name, version)
    partial = environments.partial_name(name, version, "0123abcd")
    assert environments.is_partial(partial)
    assert environments.parse_tarball(partial) is None
    assert not environments.is_partial(environments.tarball_name(name, version))
    assert environments.is_ours(environments.image_tag(name, version))


@given(st.text(max_size=80))
def test_what_is_allowed_is_what_docker_allows(text: str) -> None:
    try:
        environments.check_name(text)
    except UsageError as error:
        assert not DOCKER.fullmatch(text) or len(text) > environments.MAX_NAME
        assert "\n" not in error.message
    else:
        assert DOCKER.fullmatch(text)
        assert "/" not in text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "other characters"),
        ("a b", "other characters"),
        ("Torch", "upper case"),
        ("-x", "other characters"),
        ("x-", "other characters"),
        ("a..b", "other characters"),
        ("", "empty"),
        ("x" * 64, "longer than 63"),
        ("torch\n", "other characters"),
        ("a@1", "other characters"),
    ],
)
def test_bad_names_are_told_why(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        environments.check_name(name)


@pytest.mark.parametrize("text", ["torch@", "torch@x", "torch@-1", "torch@1@2", "torch@1234567890123", "@1"])
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        environments.parse_reference(text)


@given(st.floats(0, 2e9), st.integers(0, 2 * 10**9))
def test_no_version_is_used_twice_whatever_the_clock_says(now: float, last: int) -> None:
    version = environments.next_version(now, last)
    assert version > last
    assert version >= int(now)
    assert version in (int(now), last + 1)
