"""What a node offers of itself by its settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemons.runner.offer import offer_of
from hakuriver.config import Node
from hakuriver.errors import ConfigError
from tests.runner.peer import Host, Runner

MIB = 2**20


def test_labels_and_what_is_kept_back_are_told(tmp_path: Path) -> None:
    host = Host()
    flags = {"node.labels": ("rack=a1", "ssd="), "node.reserve_memory": MIB}
    runner = Runner(tmp_path / "state", host, flags=flags).start()
    try:
        facts = host.registrations[-1]["facts"]
        assert facts["labels"] == {"rack": "a1", "ssd": ""}
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert facts["memory"] == total - MIB
    finally:
        runner.close()
        host.close()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node(reserve_cores=4), "reserve_cores = 4 leaves nothing for tasks: this machine has 4 cores"),
        (Node(reserve_memory=10**9), "reserve_memory = 1G leaves nothing for tasks: this machine has 1G"),
        (Node(labels=("a",)), "'a' is not KEY=VALUE"),
        (Node(labels=("a b=c",)), "'a b=c' is not KEY=VALUE"),
        (Node(labels=("a=1", "a=2")), "a is there twice"),
    ],
)
def test_an_offer_that_makes_no_sense_is_one_line(node: Node, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        offer_of(node, cores=4, memory=10**9)


def test_what_is_left_for_tasks() -> None:
    offer = offer_of(Node(labels=("gpu=a100",), reserve_cores=1.5), cores=4, memory=10**9)
    assert (offer.cores(4), offer.memory(10**9), offer.labels) == (2.5, 10**9, {"gpu": "a100"})
