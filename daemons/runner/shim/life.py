"""The whole life of a shim: take the attempt, launch the task, keep it to its end."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

from daemons.runner.shim.claim import CannotStart, open_attempt, read_order, take_claim
from daemons.runner.shim.keeper import Keeper
from daemons.runner.shim.launch import launch
from daemons.runner.shim.lease import Fence
from daemons.runner.shim.proc import be_reaper, reap
from daemons.runner.shim.sockets import say, wait_for, wake_on_child


def live(attempts: int, name: str, client: socket.socket) -> None:
    """Run in the new process of a shim. ``client`` asked for it and is told everything."""
    be_reaper()
    try:
        folder, order, lease = take(attempts, name)
    except CannotStart as error:
        say(client, {"refused": str(error)})
        return
    selector = selectors.PollSelector()
    wake_on_child(selector)
    keeper = launch(selector, folder, order, lease)
    keeper.watch(client)
    say(client, {"status": keeper.status})
    keep(selector, keeper)


def keep(selector: selectors.BaseSelector, keeper: Keeper) -> None:
    """Until its end is stored; ends of children that came before count, too."""
    while not keeper.done:
        for pid, raw in reap():
            if pid == keeper.pid:
                keeper.reaped(raw)
        due = keeper.tick(time.monotonic())
        if not keeper.done:
            wait_for(selector, due)


def take(attempts: int, name: str) -> tuple[int, dict[str, Any], float]:
    """The attempt's folder, locked and claimed, its order, and until when it may run if it is fenced; raises
    CannotStart."""
    try:
        folder = open_attempt(attempts, name)
    except BlockingIOError:
        raise CannotStart("claimed") from None
    except OSError as error:
        raise CannotStart(f"its folder can't be used: {error.strerror}") from None
    try:
        order = read_order(folder)
    except (OSError, ValueError) as error:
        raise CannotStart(f"its order can't be read: {error}") from None
    fence = Fence(folder)
    if order.get("fenced") and fence.over_for():
        raise CannotStart("the lease of this node is over: no heartbeat was acknowledged in time")
    take_claim(folder)
    return folder, order, fence.deadline
