from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.runner.images.record import Loaded, Record, superfluous
from daemons.runner.images.stage import GivenUp, Stage
from hakuriver.nodewire import EnvironmentRef

LISTS = st.lists(
    st.builds(
        Loaded,
        name=st.sampled_from(["a", "b"]),
        version=st.integers(0, 9),
        sha256=st.sampled_from("012345"),
        image=st.just("i"),
    ),
    unique=True,
)


@given(LISTS, st.integers(1, 4), st.sets(st.sampled_from("012345")))
def test_what_goes_is_old_and_unused(loaded: list[Loaded], keep: int, used: set[str]) -> None:
    gone = superfluous(loaded, keep, used)
    assert not any(each.sha256 in used for each in gone)
    for name in ("a", "b"):
        mine = [each for each in loaded if each.name == name]
        assert not set(mine[-keep:]) & set(gone)
        assert set(mine[:-keep]) == {each for each in mine[:-keep] if each in gone or each.sha256 in used}


def ref(version: int, name: str = "torch") -> EnvironmentRef:
    return EnvironmentRef(name=name, version=version, sha256=f"{version:064}", size=1, image=f"i{version}")


def test_the_record_outlives_the_runner_in_the_order_of_use(tmp_path: Path) -> None:
    record = Record(tmp_path / "loaded.json")
    record.read()
    for number in (1, 2, 3):
        record.use(ref(number), f"i{number}")
    record.use(ref(1), "other")
    record.make_current("torch", "other")
    again = Record(tmp_path / "loaded.json")
    again.read()
    assert [each.version for each in again.loaded] == [2, 3, 1]
    assert (again.current("torch"), again.find(ref(1))) == ("other", record.loaded[-1])
    again.drop([record.loaded[-1]])
    assert (again.current("torch"), again.find(ref(1))) == (None, None)
    before = (tmp_path / "loaded.json").stat().st_ino
    again.use(ref(3), "i3")  # it was the last already
    assert (tmp_path / "loaded.json").stat().st_ino == before
    (tmp_path / "loaded.json").write_text("{")
    damaged = Record(tmp_path / "loaded.json")
    damaged.read()
    assert damaged.loaded == ()


def test_a_stage_says_how_far_it_is_and_can_be_given_up() -> None:
    stage = Stage("looking for", "torch@7")
    assert str(stage) == "looking for torch@7"
    stage.say("loading", 5 * 10**9)
    stage.at(1_200_000_000)
    assert str(stage).startswith("loading torch@7: 1.2G of 5G")
    threading.Timer(0.05, stage.give_up).start()
    with pytest.raises(GivenUp):
        stage.wait(30, "the host is away")
    assert str(stage) == "loading torch@7; the host is away"
    with pytest.raises(GivenUp):
        stage.at(1)
