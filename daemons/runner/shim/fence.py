"""The fence of a container: the process that ends it when this node hears nothing of the host.

It stands before the container may start and outlives runner and engine. It needs neither of them: it finds
and kills the container's processes by their control group, and asks the engine only where it can't see any.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from typing import Any

from daemons.runner.shim.claim import open_attempt, read_order
from daemons.runner.shim.container import kill_by_engine, members, thaw
from daemons.runner.shim.lease import LOOK_INTERVAL, Fence
from daemons.runner.shim.proc import boot_id, process, send
from daemons.runner.shim.sockets import Clients, listen, say, wait_for
from daemons.runner.shim.status import Status, read_status, store_status

ORDER = "fence.json"  # what to fence: {container, wrapped, engine}; the fence ends when it is gone
RECORD = "fence"  # what it did
CLAIM = "fence.claim"  # when io/claim is this very file the fence has the claim: no task could forge that
STUBBORN = 1.0  # seconds of killing after which the engine is asked, too
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


def stand(attempts: int, name: str, client: socket.socket | None) -> None:
    """Run in the new process of a fence. ``client`` asked for it: then it stands only with room for all that
    it will write. None when it replaces one that was killed: then it stands at once, and raises OSError,
    ValueError, KeyError when it doesn't know for what."""
    selector = selectors.PollSelector()
    try:
        folder = open_attempt(attempts, name)
        fence = ContainerFence(selector, folder, read_order(folder, ORDER))
        if client is not None:
            fence.settle()
    except (BlockingIOError, FileNotFoundError) as error:
        if client is not None:
            say(client, {"refused": "claimed" if isinstance(error, BlockingIOError) else "no such attempt"})
        return
    except (OSError, ValueError, KeyError) as error:
        if client is None:
            raise
        say(client, {"refused": f"its fence can't stand: {error}"})
        return
    if client is not None:
        fence.welcome(client)
    while not fence.done:
        due = fence.tick(time.monotonic())
        if not fence.done:
            wait_for(selector, due)


def has_claim(folder: int) -> bool:
    """Whether the fence took an attempt's claim: then nothing in its container ever ran or will run."""
    try:
        ours = os.stat(CLAIM, dir_fd=folder, follow_symlinks=False)
        taken = os.stat("io/claim", dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (taken.st_dev, taken.st_ino)


class ContainerFence:
    """Watches the lease for one attempt; once it is over the container ends, whatever comes then."""

    def __init__(self, selector: selectors.BaseSelector, folder: int, order: dict[str, Any]) -> None:
        self.done = False
        self._selector = selector
        self._settled = False
        self._folder = folder
        self._order = order
        self._container: str = order["container"]
        known = read_status(folder, RECORD)
        self._record: Status = known if known is not None and known["boot"] == boot_id() else _nothing_yet()
        self._lease = Fence(folder, self._record["lease"])
        self._lease.over_for()
        self._record["lease"] = self._lease.deadline
        self._due = 0.0
        self._since = 0.0
        self._pause = FIRST_PAUSE
        self._empty_looks = 0
        self._known: tuple[int, int] | None = None
        self._clients = Clients(selector, self._answer)

    def settle(self) -> None:
        """Make its files, so that a full disk can't stop it later, and listen; raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(CLAIM, flags, 0o600, dir_fd=self._folder))
        store_status(self._folder, self._record, RECORD, durable=True)
        listening = listen(self._folder, "control")
        self._selector.register(listening, selectors.EVENT_READ, lambda: self._clients.accept(listening))
        self._settled = True

    def welcome(self, client: socket.socket) -> None:
        """Tell a client how things are, now and whenever it asks."""
        self._clients.add(client)
        say(client, self._state())

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        self._read_order()
        say(client, self._state() if message.get("op") == "fence" else {"error": "unknown"})

    def _state(self) -> dict[str, Any]:
        fenced = self._fenced or self._lease.over_for() > 0
        return {"container": self._container, "fenced": fenced, "reaches": self._reaches()}

    @property
    def _fenced(self) -> bool:
        return bool(self._record["no_lease_for"])

    def _reaches(self) -> bool:
        """Whether a live process of the container is seen that this one may kill."""
        known = self._known
        facts = process(known[0]) if known is not None else None
        if known is None or facts is None or facts[3] != known[1] or facts[0] in "ZX":
            known = self._known = next(members(self._container), None)
        if known is None:
            return False
        if not self._record["seen"]:
            self._record["seen"] = True
            self._write()
        try:
            os.kill(known[0], 0)
        except OSError:
            return False
        return True

    # ---- what becomes due

    def tick(self, now: float) -> float:
        """Do what is due; returns when to come again."""
        if now < self._due:
            return self._due
        if not self._read_order():
            self._end()
            return now
        if not self._settled:
            with contextlib.suppress(OSError):
                self.settle()
        if not self._fenced:
            over = self._lease.over_for()
            if not over:
                self._due = now + LOOK_INTERVAL
                return self._due
            self._record["no_lease_for"] = over
            self._since = now
            self._write()
        self._due = now + self._fence(now)
        return self._due

    def _read_order(self) -> bool:
        """Whether there is still something to fence. What can't be read changes nothing."""
        try:
            self._order = read_order(self._folder, ORDER)
            self._container = self._order["container"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError):
            pass
        return True

    def _fence(self, now: float) -> float:
        """One round against the container; returns seconds until the next."""
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)
        living = list(members(self._container))
        if living:
            self._empty_looks = 0
            self._kill(living, now)
            return self._pause
        self._empty_looks += 1
        ours = self._take_claim()
        if self._empty_looks > 1 and self._certain(ours):
            self._record["dead"] = True
            if self._write(durable=True):
                self._end()
        return self._pause

    def _kill(self, living: list[tuple[int, int]], now: float) -> None:
        if not self._record["killed"]:
            self._record |= {"seen": True, "killed": True}
            self._write()
        for pid, started in living:
            send(pid, started, signal.SIGKILL)
        for pid, _ in living:
            thaw(pid, self._container)
        if now - self._since > STUBBORN:
            self._ask_engine()
            self._since = time.monotonic()

    def _take_claim(self) -> bool | None:
        """Whether the claim is the fence's; None when nobody has it because it can't be written down. Where a
        process was seen the claim says nothing any more: who runs in the container may have removed it."""
        if self._record["seen"] or not self._order["wrapped"]:
            return False
        try:
            os.link(CLAIM, "io/claim", src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileExistsError:
            pass
        except OSError:
            return None
        return has_claim(self._folder)

    def _certain(self, ours: bool | None) -> bool:
        """Whether a container without processes, as far as can be seen, will never have any again."""
        if ours or self._record["seen"]:
            return True
        answer = self._ask_engine()
        return answer == 404 or (answer == 409 and ours is False and self._order["wrapped"])

    def _ask_engine(self) -> int | None:
        answer = kill_by_engine(self._order["engine"], self._container)
        if answer == 204 and not self._record["killed"]:
            self._record["killed"] = True
            self._write()
        return answer

    def _write(self, *, durable: bool = False) -> bool:
        try:
            store_status(self._folder, self._record, RECORD, durable=durable)
        except OSError:
            return False
        return True

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink("control", dir_fd=self._folder)
        self.done = True


def _nothing_yet() -> Status:
    """The record of a fence that did nothing: every field that it will ever have."""
    return {
        "boot": boot_id(),
        "lease": 0.0,
        "no_lease_for": 0.0,
        "seen": False,  # a process of the container
        "killed": False,  # processes that lived when the lease was over
        "dead": False,  # for good
    }
