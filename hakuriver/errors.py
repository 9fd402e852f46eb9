"""Every error that a person or a script can meet, as one tree.

    HakuRiverError            exit 1  HTTP 500
    ├── UsageError                 2       400   what was typed or sent can't be understood
    │   └── ConfigError            2       400   … in a config file or variable
    ├── NotFound                   3       404
    │   └── Ambiguous              3       404   a name that means several
    ├── NotAllowed                 4       403   against policy
    │   └── Unauthenticated        4       401   no or a wrong credential
    ├── Unreachable                5       503   the host (or a node it needs) doesn't answer
    ├── Conflict                   6       409   conflicts with the present state
    ├── CannotFit                  7       422   can never be placed on this cluster
    ├── TooMany                    1       429   over a limit that will pass
    ├── StorageFull                1       507   nothing was stored
    └── Internal                   1       500   our bug

Routes and CLI render them in one place each; nothing else catches the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class HakuRiverError(Exception):
    """An error with a stable code, one clear line, and where possible what to do about it."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.instance_code = code or self.code

    def to_json(self) -> dict[str, Any]:
        """The one JSON form, on the wire and on stderr under ``--json``."""
        return {"error": {"code": self.instance_code, "message": self.message, "hint": self.hint}}


class UsageError(HakuRiverError):
    code, exit_code, http_status = "usage", 2, 400


class ConfigError(UsageError):
    code = "config"


class NotFound(HakuRiverError):
    code, exit_code, http_status = "not_found", 3, 404


class Ambiguous(NotFound):
    code = "ambiguous"


class NotAllowed(HakuRiverError):
    code, exit_code, http_status = "not_allowed", 4, 403


POLICY = "policy"
"""Code of a NotAllowed that is about what was asked for, not about who asks: final for a task."""


PRUNED = "pruned"
"""Code of a NotFound about what was there, and was removed because of its age; the message says when."""


class Unauthenticated(NotAllowed):
    code, http_status = "unauthenticated", 401


class Unreachable(HakuRiverError):
    code, exit_code, http_status = "unreachable", 5, 503


class Conflict(HakuRiverError):
    code, exit_code, http_status = "conflict", 6, 409


class CannotFit(HakuRiverError):
    code, exit_code, http_status = "cannot_fit", 7, 422


class TooMany(HakuRiverError):
    code, exit_code, http_status = "too_many", 1, 429


class StorageFull(HakuRiverError):
    code, exit_code, http_status = "storage_full", 1, 507


class Internal(HakuRiverError):
    code = "internal"


_BY_STATUS: dict[int, type[HakuRiverError]] = {
    kind.http_status: kind
    for kind in (
        Internal,
        UsageError,
        NotFound,
        NotAllowed,
        Unauthenticated,
        Unreachable,
        Conflict,
        CannotFit,
        TooMany,
        StorageFull,
    )
}


def from_json(status: int, body: object) -> HakuRiverError:
    """Rebuild the error that a daemon answered with, so that a client exits as the daemon would."""
    kind = _BY_STATUS.get(status, Internal if status >= 500 else UsageError)
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return kind(f"unexpected answer (HTTP {status})", hint="is this a HakuRiver host?")
    return kind(
        str(error.get("message", "")) or f"HTTP {status}",
        hint=str(error.get("hint", "")),
        code=str(error.get("code", "")),
    )
