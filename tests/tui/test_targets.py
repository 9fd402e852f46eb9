"""Ticking places and typing targets are the same thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.target import Target
from tui.targets import (
    Words,
    read,
    toggle_each,
    toggle_gpu,
    toggle_node,
    toggle_numa,
    without_gpus,
    without_targets,
    write,
)

LOCAL = {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}


def home(gpu: int) -> int:
    return gpu // 4


@pytest.mark.parametrize("text", ["", "n1", "n1:0::0,2", "n1::0 n1::1 n2", "n1 what? n2::x n3:1"])
def test_text_survives_reading(text: str) -> None:
    assert write(read(text)) == text
    assert read(write(read(text))) == read(text)


def test_a_gpu_is_taken_and_given_back() -> None:
    words = toggle_gpu((), "n1", 2, 0)
    words = toggle_gpu(words, "n1", 0, 0)
    assert write(words) == "n1::0,2"
    assert write(toggle_gpu(words, "n1", 2, 0)) == "n1::0"
    assert toggle_gpu(read("n1::0"), "n1", 0, 0) == ()
    assert write(toggle_gpu(read("n1:0::0"), "n1", 0, 0)) == "n1:0", "what else was asked for stays"


def test_a_gpu_elsewhere_than_the_numa_node_makes_a_second_task() -> None:
    assert write(toggle_gpu(read("n1:0"), "n1", 5, 1)) == "n1:0 n1::5"
    assert write(toggle_gpu(read("n1:0 n1:1"), "n1", 5, 1)) == "n1:0 n1:1::5"
    assert write(toggle_gpu(read("n2 n1:1"), "n1", 5, 1)) == "n2 n1:1::5"


def test_numa_nodes_bind_what_fits_and_split_what_does_not() -> None:
    assert write(toggle_numa(read("n1::0,1"), "n1", 0, LOCAL[0])) == "n1:0::0,1"
    assert write(toggle_numa(read("n1::0,5"), "n1", 0, LOCAL[0])) == "n1::0,5 n1:0"
    assert write(toggle_numa(read("n1:0"), "n1", 1, LOCAL[1])) == "n1:0 n1:1"
    assert write(toggle_numa(read("n1:0::0"), "n1", 0, LOCAL[0])) == "n1::0"
    assert toggle_numa(read("n1:0"), "n1", 0, LOCAL[0]) == ()


def test_each_gpu_its_own_task_and_back() -> None:
    assert write(toggle_each(read("n2 n1:0::0,1 n3"), "n1")) == "n2 n1:0::0 n1:0::1 n3"
    assert write(toggle_each(read("n2 n1:0::0 n1:0::1 n3"), "n1")) == "n2 n1:0::0,1 n3"
    assert toggle_each(read("n2"), "n1") == read("n2")


def test_what_is_no_target_stays() -> None:
    assert write(toggle_node(read("n1 n1::"), "n1")) == "n1::"
    assert write(without_targets(read("n1 ?? n2"))) == "??"
    assert write(without_gpus(read("n1::0 n1::1 n2:0::3"))) == "n1 n2:0"


acts = st.lists(
    st.one_of(
        st.tuples(st.just("gpu"), st.sampled_from(["n1", "n2"]), st.integers(0, 7)),
        st.tuples(st.just("numa"), st.sampled_from(["n1", "n2"]), st.integers(0, 1)),
        st.tuples(st.just("node"), st.sampled_from(["n1", "n2"]), st.just(0)),
        st.tuples(st.just("each"), st.sampled_from(["n1", "n2"]), st.just(0)),
    ),
    max_size=12,
)


def acted(words: Words, act: tuple[str, str, int]) -> Words:
    kind, node, number = act
    if kind == "gpu":
        return toggle_gpu(words, node, number, home(number))
    if kind == "numa":
        return toggle_numa(words, node, number, LOCAL[number])
    return toggle_node(words, node) if kind == "node" else toggle_each(words, node)


@given(acts)
def test_any_ticking_gives_targets_that_a_host_could_take(done: list[tuple[str, str, int]]) -> None:
    words: Words = ()
    for act in done:
        before = words
        words = acted(words, act)
        if act[0] in ("gpu", "node"):
            other = [word for word in before if isinstance(word, Target) and word.node != act[1]]
            assert [w for w in words if isinstance(w, Target) and w.node != act[1]] == other
    assert read(write(words)) == words
    taken = [(word.node, gpu) for word in words if isinstance(word, Target) for gpu in word.gpus]
    assert len(taken) == len(set(taken)), "a GPU is never asked for twice"
    for word in words:
        assert isinstance(word, Target)
        assert word.numa is None or all(home(gpu) == word.numa for gpu in word.gpus)


@given(acts, st.integers(0, 7))
def test_ticking_a_gpu_twice_changes_nothing_about_gpus(done: list[tuple[str, str, int]], gpu: int) -> None:
    words: Words = ()
    for act in done:
        words = acted(words, act)
    again = toggle_gpu(toggle_gpu(words, "n1", gpu, home(gpu)), "n1", gpu, home(gpu))

    def held(each: Words) -> set[tuple[str, int]]:
        return {(word.node, gpu) for word in each if isinstance(word, Target) for gpu in word.gpus}

    assert held(again) == held(words)
