"""Who may come in: credentials by the digest of their token."""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, insert, select

from daemons.common.web import Principal
from daemons.host.schema import credential
from daemons.host.store import Store, Tx
from hakuriver import statedir
from hakuriver.config import Settings
from hakuriver.paths import Kind


@dataclass(frozen=True, slots=True)
class Tokens:
    """The three tokens of a cluster's own files."""

    user: str
    node: str
    host: str


def ensure_tokens(settings: Settings, layout: statedir.Layout) -> Tokens:
    """Read the token files, made where they are missing; raises ConfigError."""
    folder = (
        Path(settings.paths.credentials_dir).expanduser()
        if settings.paths.credentials_dir
        else layout.credentials
    )
    made = {kind: statedir.ensure_token(folder / f"{kind}.token") for kind in Kind}
    return Tokens(made[Kind.USER], made[Kind.NODE], made[Kind.HOST])


def user_name() -> str:
    """The name of the user this process runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def token_digest(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Credentials:
    """All credentials of the store, in memory: a check must cost nothing."""

    def __init__(self, rows: Mapping[str, tuple[Principal, datetime | None]]) -> None:
        self._rows = rows

    def __call__(self, token: str) -> Principal | None:
        """Whose token it is; takes the same time whether or how far one matches."""
        offered = token_digest(token)
        found: tuple[Principal, datetime | None] | None = None
        for digest, row in self._rows.items():
            if hmac.compare_digest(digest, offered):
                found = row
        if found is None or (found[1] is not None and found[1] <= datetime.now(UTC)):
            return None
        return found[0]


async def load(store: Store, tokens: Tokens) -> Credentials:
    """Store the tokens of the files in place of those that were there, and read all credentials."""
    columns = [credential.c[name] for name in ("sha256", "subject", "kind", "role", "source")]
    rows = [
        (token_digest(tokens.user), user_name(), str(Kind.USER), "admin", "user.token"),
        (token_digest(tokens.node), "*", str(Kind.NODE), "node", "node.token"),
        (token_digest(tokens.host), "host", str(Kind.HOST), "host", "host.token"),
    ]

    def operation(tx: Tx) -> dict[str, tuple[Principal, datetime | None]]:
        stored = {tuple(row) for row in tx.execute(select(*columns).where(credential.c.source != ""))}
        if stored != set(rows):  # a start with nothing new must not need room on the disk
            tx.execute(delete(credential).where(credential.c.source != ""))
            names = [column.name for column in columns]
            tx.execute(insert(credential), [dict(zip(names, row, strict=True)) for row in rows])
        return {
            row.sha256: (
                Principal(row.subject, Kind(row.kind), row.role),
                datetime.fromisoformat(row.expires_at) if row.expires_at else None,
            )
            for row in tx.execute(select(credential))
        }

    return Credentials(await store.write(operation))
