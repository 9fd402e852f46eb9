"""The folder of an attempt: who may keep it, what is ordered, and the claim that nothing starts twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import Any

from daemons.runner.shim.proc import boot_id
from daemons.runner.shim.status import Status, store_status

INHERITANCE = 10.0  # seconds in which a task that was just forked has let go of the folder


class CannotStart(Exception):
    """The task can't be started: why. The claim was not taken, or was given back."""


def open_attempt(attempts: int, name: str) -> int:
    """The folder of an attempt, locked: whoever holds it is the only one to keep the attempt."""
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=attempts)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        raise
    return folder


def inherit_attempt(attempts: int, name: str) -> int:
    """The same for one whose shim was killed: its task may hold the folder until it executes."""
    give_up = time.monotonic() + INHERITANCE
    while True:
        try:
            return open_attempt(attempts, name)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.005)


def read_order(folder: int, name: str = "order.json") -> dict[str, Any]:
    """What the runner wrote down for the shim; raises OSError, ValueError."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(file, "rb") as reader:
        found: dict[str, Any] = json.load(reader)
    return found


def take_claim(folder: int) -> None:
    """Take the claim and a block for the status, or neither; raises CannotStart."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open("io/claim", flags, 0o644, dir_fd=folder))
    except FileExistsError:
        raise CannotStart("claimed") from None
    except OSError as error:
        raise CannotStart(f"the start can't be recorded: {error.strerror}") from None
    try:
        store_status(folder, {"phase": "claimed", "boot": boot_id()}, durable=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink("status", dir_fd=folder)
            os.unlink("io/claim", dir_fd=folder)
        raise CannotStart(f"the start can't be recorded: {error.strerror}") from None


def write_never_ran(folder: int) -> None:
    """The final status of an attempt whose shim was killed before it could execute anything."""
    status: Status = {"phase": "final", "boot": boot_id(), "never_ran": True}
    store_status(folder, status, durable=True)
