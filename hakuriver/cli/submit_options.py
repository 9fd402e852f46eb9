"""The options of a submission: shared by ``run`` and ``task submit``."""

from __future__ import annotations

import argparse

from hakuriver import units
from hakuriver.cli import values
from hakuriver.cli.parsing import at_least, one_of, typed

ON_NODE_LOSS = ("keep", "requeue", "fail")
EXECUTORS = ("process", "docker", "systemd")
PLACEMENTS = ("pack", "spread", "round-robin")
Group = argparse._ArgumentGroup


def add(parser: argparse.ArgumentParser, *, many: bool) -> None:
    """The options of a submission; ``many``: also those that make many tasks of it."""
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    _where(parser.add_argument_group("where it runs"))
    _inside(parser.add_argument_group("what it runs in"))
    _how(parser.add_argument_group("how it runs"))
    _when(parser.add_argument_group("when it runs"))
    if many:
        _many(parser.add_argument_group("many at once"))
    else:
        parser.set_defaults(sweep=None, max_running=None)


def _where(group: Group) -> None:
    group.add_argument(
        "--target",
        "-t",
        action="append",
        default=[],
        metavar="T",
        help="node[:numa][::gpu,…]; again for one on each",
    )
    group.add_argument(
        "--cores", type=typed(units.parse_cores), default=1.0, metavar="N", help="default 1; 0 = none"
    )
    group.add_argument("--pin", action="store_true", default=None, help="those cores are nobody else's")
    group.add_argument(
        "--memory", type=typed(units.parse_size), default=0, metavar="SIZE", help="4G, 512MiB; a cap"
    )
    group.add_argument(
        "--gpus", type=typed(values.gpus), metavar="N[:MODEL]", help="free ones, of that model: 2, 2:a100"
    )
    group.add_argument(
        "--gpu-memory", type=typed(units.parse_size), metavar="SIZE", help="that each of them must have"
    )
    group.add_argument(
        "--label",
        type=typed(values.label),
        action="append",
        metavar="K=V",
        help="of the node; again for more",
    )
    group.add_argument(
        "--placement",
        type=one_of("placement", PLACEMENTS),
        metavar="P",
        help="pack (default with GPUs), spread, round-robin",
    )


def _inside(group: Group) -> None:
    group.add_argument("--container", metavar="E[@VERSION]", help="an environment; NULL = none")
    group.add_argument("--image", metavar="REF", help="any image of the node's engine")
    group.add_argument("--executor", type=one_of("executor", EXECUTORS), metavar="|".join(EXECUTORS))
    group.add_argument(
        "--mount", action="append", metavar="H:C[:ro]", help="folder of the node in the container"
    )
    group.add_argument(
        "--privileged", action="store_true", default=None, help="where the node's policy allows it"
    )
    group.add_argument(
        "--private-network", action="store_true", help="without the node's network (not as process)"
    )
    group.add_argument("--private-pid", action="store_true", help="without its processes (not as process)")
    group.add_argument(
        "--shm-size", type=typed(units.parse_size), metavar="SIZE", help="shared memory of a container"
    )
    group.add_argument(
        "--ulimit",
        type=typed(values.ulimit),
        action="append",
        metavar="NAME=SOFT[:HARD]",
        help="again for more",
    )


def _how(group: Group) -> None:
    group.add_argument(
        "--env", action="append", default=[], metavar="K[=V]", help="K alone: as it is set here"
    )
    group.add_argument("--workdir", metavar="D", help="as the task sees it, or relative; default: here")
    group.add_argument("--user", metavar="U[:G]", help="whom a container runs as; names of its image or ids")
    group.add_argument("--name", help="unique among live tasks; stands for the id")
    group.add_argument("--tag", action="append", default=[], metavar="TAG", help="again for several")
    group.add_argument(
        "--retries", type=at_least(0, 100), metavar="N", help="new attempts after a failure; not after a kill"
    )
    group.add_argument(
        "--on-node-loss",
        type=one_of("policy", ON_NODE_LOSS),
        default="keep",
        metavar="P",
        help="keep, requeue or fail when its node is lost",
    )


def _when(group: Group) -> None:
    group.add_argument(
        "--priority",
        type=at_least(-1000, 1000),
        metavar="N",
        help="-1000 to 1000; higher goes first, default 0",
    )
    group.add_argument(
        "--time-limit",
        type=typed(values.positive),
        metavar="T",
        help="of running: 90, 30m, 2h; then timed_out",
    )
    group.add_argument(
        "--notice",
        type=typed(values.notice),
        metavar="[SIG@]T",
        help="a signal so long before that; default USR1",
    )
    group.add_argument("--after", metavar="ID[,ID]", action="append", help="when these have completed")
    group.add_argument("--hold", action="store_true", default=None, help="when it is released")


def _many(group: Group) -> None:
    group.add_argument(
        "--sweep",
        action="store_true",
        default=None,
        help="all combinations of span:{1..5}, span:[a,b]",
    )
    group.add_argument("--max-running", type=at_least(1), metavar="N", help="of them at a time")
