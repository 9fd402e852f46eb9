"""Real networks between network namespaces: every member has a link of its own to one router that cuts."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
CAN = os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("nsenter") is not None


class Wires:
    """Made by ``wires``. Packets that are cut vanish without a word, as on a network that is broken."""

    def __init__(self, members: Sequence[str]) -> None:
        self._prefix = f"hk{os.getpid()}"
        self._numbers = {name: number for number, name in enumerate(members)}
        self._cuts: list[list[str]] = []

    def namespace(self, name: str) -> str:
        """The name of a member's namespace, for ``ip``."""
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        """Where a member is found by the others."""
        return f"10.213.{self._numbers[name]}.2"

    def command(self, name: str) -> list[str]:
        """What to put before a command that is to run with a member's network."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}"]

    def up(self) -> None:
        router = self.namespace("router")
        _ip("netns", "add", router)
        _ip("-n", router, "link", "set", "lo", "up")
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
        subprocess.run([*self.command("router"), "sh", "-c", forward], check=True)
        for name, number in self._numbers.items():
            member, near = self.namespace(name), f"10.213.{number}.1"
            _ip("netns", "add", member)
            ends = ["eth0", "netns", member, "type", "veth", "peer", "name", f"to{number}", "netns", router]
            _ip("link", "add", *ends)
            _ip("-n", member, "address", "add", f"{self.address(name)}/30", "dev", "eth0")
            _ip("-n", router, "address", "add", f"{near}/30", "dev", f"to{number}")
            for namespace, link in ((member, "lo"), (member, "eth0"), (router, f"to{number}")):
                _ip("-n", namespace, "link", "set", link, "up")
            _ip("-n", member, "route", "add", "default", "via", near)

    def down(self) -> None:
        for name in (*self._numbers, "router"):
            if Path("/run/netns", self.namespace(name)).exists():
                _ip("netns", "delete", self.namespace(name))

    def cut(self, sender: str, receiver: str) -> None:
        """Nothing from ``sender`` reaches ``receiver`` any more; the other way is left alone."""
        rule = ["from", self.address(sender), "to", self.address(receiver), "blackhole"]
        _ip("-n", self.namespace("router"), "rule", "add", *rule)
        self._cuts.append(rule)

    def unplug(self, name: str) -> None:
        """Take a member's cable out: its own side learns of it at once."""
        _ip("-n", self.namespace("router"), "link", "set", f"to{self._numbers[name]}", "down")

    def heal(self) -> None:
        """Everything is well again."""
        while self._cuts:
            _ip("-n", self.namespace("router"), "rule", "del", *self._cuts.pop())
        for number in self._numbers.values():
            _ip("-n", self.namespace("router"), "link", "set", f"to{number}", "up")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and what it starts, has a member's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.namespace(name)}") as inside:
            _enter(libc, inside.fileno())
            try:
                yield
            finally:
                _enter(libc, before.fileno())


@contextmanager
def wires(*members: str) -> Iterator[Wires]:
    """Namespaces for members, and one for the router between them. Needs root and iproute2."""
    made = Wires(members)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
