"""What the runner must not forget: orders, intents, ends, and reports that wait for their acknowledgement.

One SQLite file, one thread, every write durable before it returns. ``version`` grows with every write.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from daemons.runner.migrations import MIGRATIONS
from daemons.runner.model import Attempt, Handle, Key, Phase, Wish
from hakuriver.errors import ConfigError, Conflict, StorageFull
from hakuriver.lifecycle import Intent, State
from hakuriver.wire import AttemptOrder, AttemptSpec, IntentOrder, Report, ReportResult

P = ParamSpec("P")
T = TypeVar("T")

_SELECT = """
    SELECT a.spec, a.cluster, a.phase, a.state, a.boot_id, a.carried, a.handle,
           w.version, w.intent, w.by, w.grace, w.at, w.at_boot, w.boot_id
    FROM attempt a LEFT JOIN wish w USING (task, attempt)
"""


class Journal:
    """Every method runs in the journal's own thread; writes raise StorageFull and leave nothing half done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, "journal")
        self._db: sqlite3.Connection
        self.runner = ""  # this journal's identity, 32 hex digits
        self.version = 0

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one of the methods below in the journal's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Finish what was begun and close the file."""

        def end() -> None:
            if hasattr(self, "_db"):
                self._db.close()

        self._pool.submit(end).result(timeout=5)
        self._pool.shutdown(wait=True)

    def open(self) -> None:
        """Open or make the file; raises ConfigError when it can't be used or is of a later version."""
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
            with self._write():
                fresh = secrets.token_hex(16)
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('runner', ?)", (fresh,))
            self.runner = self._meta("runner")
        except (sqlite3.Error, StorageFull) as error:
            raise ConfigError(f"the journal {self._path} can't be used: {error}") from error

    def _migrate(self) -> None:
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found > len(MIGRATIONS):
            raise ConfigError(
                f"the journal {self._path} is of a later version ({found}) than this runner knows",
                hint="start the newer version of HakuRiver that wrote it",
                code="newer_schema",
            )
        for number, script in enumerate(MIGRATIONS[found:], found + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def _meta(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that also moves the version on."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFull(
                    f"the runner can't write its journal: {error}", hint="free space on the node's disk"
                ) from error
            raise
        self.version = int(self._meta("version"))

    # ---- orders and intents

    def accept(self, order: AttemptOrder, early: Wish | None) -> tuple[Attempt, bool]:
        """Journal an order; ``(attempt, whether it is new)``. ``early`` is the intent that came with it.

        Raises Conflict for another digest, another cluster, a host of the past, and for an attempt that ended
        so long ago that it was forgotten.
        """
        key = (order.spec.task, order.spec.attempt)
        self._check_cluster(order.cluster, order.epoch)
        known = self._db.execute(
            "SELECT digest, 0 FROM attempt WHERE task = ? AND attempt = ?"
            " UNION ALL SELECT digest, 1 FROM forgotten WHERE task = ? AND attempt = ?",
            (*key, *key),
        ).fetchone()
        if known is not None and known[0] != order.digest:
            raise Conflict(f"attempt {key[0]}.{key[1]} is known with another content", code="other_digest")
        if known is not None and known[1]:
            raise Conflict(f"attempt {key[0]}.{key[1]} ended here long ago", code="ended_before")
        with self._write() as db:
            if known is None:
                self._saw(db, key)
                db.execute(
                    "INSERT INTO attempt (task, attempt, digest, cluster, spec, phase, state)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *key,
                        order.digest,
                        order.cluster,
                        order.spec.model_dump_json(),
                        Phase.ACCEPTED,
                        State.ASSIGNED,
                    ),
                )
            if early is not None:
                self._store_wish(key, early)
        attempt = self.attempt(key)
        assert attempt is not None
        return attempt, known is None

    def _saw(self, db: sqlite3.Connection, key: Key) -> None:
        db.execute(
            "UPDATE meta SET value = ? WHERE key = 'high_water' AND CAST(value AS INTEGER) < ?",
            (key[0], key[0]),
        )

    def high_water(self) -> int:
        """The highest task that this journal ever saw."""
        return int(self._meta("high_water"))

    def _check_cluster(self, cluster: str, epoch: int) -> None:
        ours = self._meta("cluster")
        if ours and cluster != ours:
            raise Conflict(f"this runner belongs to cluster {ours}, not {cluster}", code="other_cluster")
        if epoch < int(self._meta("epoch")):
            raise Conflict("the order is of an earlier life of this cluster", code="old_epoch")

    def cluster(self) -> str:
        """The cluster that this journal belongs to; empty before the first."""
        return self._meta("cluster")

    def bind(self, cluster: str, epoch: int) -> None:
        """Belong to a cluster from now on; raises Conflict when the journal belongs to another. In a later
        life of that cluster every end that is remembered is told again: its host may have forgotten it.
        """
        ours, known = self._meta("cluster"), int(self._meta("epoch"))
        if ours and cluster != ours:
            raise Conflict(
                f"this runner's journal belongs to cluster {ours}, the host is {cluster}",
                hint="give this node a fresh --state-dir to make it part of the other cluster",
                code="other_cluster",
            )
        if (ours, known) != (cluster, max(known, epoch)):
            with self._write() as db:
                db.execute("UPDATE meta SET value = ? WHERE key = 'cluster'", (cluster,))
                db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (max(known, epoch),))
                if 0 < known < epoch:
                    db.execute(
                        "INSERT OR IGNORE INTO outbox (task, attempt, sequence, report)"
                        " SELECT task, attempt, final, last_report FROM attempt"
                        " WHERE last_report IS NOT NULL ORDER BY ended"
                    )
                    db.execute("UPDATE attempt SET acknowledged = 0 WHERE last_report IS NOT NULL")

    def wish(self, key: Key, wish: Wish) -> None:
        """Journal an intent unless a newer one is known. For an unknown attempt it waits for the order, which
        then can't start what was killed before."""
        with self._write() as db:
            self._saw(db, key)
            self._store_wish(key, wish)

    def _store_wish(self, key: Key, wish: Wish) -> None:
        """A newer intent replaces an older one, but a kill stays one and keeps its first time."""
        self._db.execute(
            """
            INSERT INTO wish VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                version = excluded.version, intent = excluded.intent, grace = excluded.grace,
                by = iif(intent = 'kill', by, excluded.by), at = iif(intent = 'kill', at, excluded.at),
                at_boot = iif(intent = 'kill', at_boot, excluded.at_boot),
                boot_id = iif(intent = 'kill', boot_id, excluded.boot_id)
            WHERE excluded.version > version AND (intent <> 'kill' OR excluded.intent = 'kill')
            """,
            (*key, wish.version, wish.intent, wish.by, wish.grace, wish.at, wish.at_boot, wish.boot_id),
        )

    # ---- attempts

    def attempt(self, key: Key) -> Attempt | None:
        row = self._db.execute(f"{_SELECT} WHERE a.task = ? AND a.attempt = ?", key).fetchone()
        return None if row is None else _attempt(row)

    def live(self) -> list[Attempt]:
        """All that have not ended."""
        return [_attempt(row) for row in self._db.execute(f"{_SELECT} WHERE a.phase <> 'ended'")]

    def uncleaned(self) -> list[Attempt]:
        """All that ended and left something behind that is to be removed."""
        rows = self._db.execute(f"{_SELECT} WHERE a.phase = 'ended' AND a.cleaned = 0")
        return [_attempt(row) for row in rows]

    def cleaned(self, key: Key) -> None:
        with self._write() as db:
            db.execute("UPDATE attempt SET cleaned = 1 WHERE task = ? AND attempt = ?", key)

    def open_keys(self) -> tuple[int, list[Key]]:
        """The version, and every attempt without an acknowledged final report."""
        rows = self._db.execute("SELECT task, attempt FROM attempt WHERE acknowledged = 0 ORDER BY 1, 2")
        return int(self._meta("version")), [(row[0], row[1]) for row in rows]

    def save(self, key: Key, *, phase: Phase, boot_id: str, handle: Handle) -> None:
        """Store how far an attempt is and where to find it."""
        with self._write() as db:
            db.execute(
                "UPDATE attempt SET phase = ?, boot_id = ?, handle = ? WHERE task = ? AND attempt = ?",
                (phase, boot_id, json.dumps(handle), *key),
            )

    def report(self, key: Key, phase: Phase, facts: dict[str, Any]) -> None:
        """Store a new phase together with the report about it; ``facts`` are the fields of a Report."""
        with self._write() as db:
            db.execute("UPDATE attempt SET sequence = sequence + 1 WHERE task = ? AND attempt = ?", key)
            (sequence,) = db.execute(
                "SELECT sequence FROM attempt WHERE task = ? AND attempt = ?", key
            ).fetchone()
            report = Report(task=key[0], attempt=key[1], sequence=sequence, **facts)
            text, ended = report.model_dump_json(), phase is Phase.ENDED
            last = (sequence, text, time.time()) if ended else (None, None, None)
            db.execute(
                "UPDATE attempt SET phase = ?, state = ?, carried = coalesce(?, carried), final = ?,"
                " last_report = ?, ended = ? WHERE task = ? AND attempt = ?",
                (phase, report.state, report.intent_version, *last, *key),
            )
            db.execute(
                "INSERT INTO outbox (task, attempt, sequence, report) VALUES (?, ?, ?, ?)",
                (*key, sequence, text),
            )

    # ---- the outbox

    def outbox(self, limit: int) -> list[Report]:
        """The oldest reports that wait, in order."""
        rows = self._db.execute("SELECT report FROM outbox ORDER BY id LIMIT ?", (limit,))
        return [Report.model_validate_json(row[0]) for row in rows]

    def acknowledge(self, results: Sequence[ReportResult]) -> None:
        """Forget reports that the host has decided on; refused ones are kept for inspection."""
        keys = [(each.task, each.attempt, each.sequence) for each in results]
        refused = [
            (time.time(), each.message, each.task, each.attempt, each.sequence)
            for each in results
            if each.result == "refused"
        ]
        with self._write() as db:
            db.executemany(
                "INSERT INTO dead_letter (at, message, task, attempt, sequence, report)"
                " SELECT ?, ?, task, attempt, sequence, report FROM outbox"
                " WHERE task = ? AND attempt = ? AND sequence = ?",
                refused,
            )
            db.executemany("DELETE FROM outbox WHERE task = ? AND attempt = ? AND sequence = ?", keys)
            db.executemany(
                "UPDATE attempt SET acknowledged = 1 WHERE task = ? AND attempt = ? AND final = ?", keys
            )

    # ---- copies of logs

    def uncopied(self) -> list[tuple[Key, str, bool]]:
        """Attempts whose logs are not wholly copied yet: key, cluster, whether it ended."""
        rows = self._db.execute(
            "SELECT task, attempt, cluster, phase FROM attempt WHERE copied = 0 AND phase <> 'accepted'"
        )
        return [((row[0], row[1]), row[2], row[3] == Phase.ENDED) for row in rows]

    def copied(self, keys: Sequence[Key]) -> None:
        with self._write() as db:
            db.executemany("UPDATE attempt SET copied = 1 WHERE task = ? AND attempt = ?", keys)

    # ---- what is old

    def prunable(self, before: float, keep: int, after: Key, limit: int) -> list[Key]:
        """Ended attempts that nobody needs here any more, in order from beyond ``after`` on: those that ended
        before a time of day, and those beyond the ``keep`` newest."""
        row = self._db.execute(
            "SELECT ended FROM attempt WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT 1 OFFSET ?", (keep,)
        ).fetchone()
        rows = self._db.execute(
            "SELECT task, attempt FROM attempt WHERE ended <= ? AND acknowledged AND copied AND cleaned"
            " AND (task, attempt) > (?, ?) ORDER BY task, attempt LIMIT ?",
            (before if row is None else max(before, row[0]), *after, limit),
        )
        return [(row[0], row[1]) for row in rows]

    def forget(self, keys: Sequence[Key]) -> None:
        """Keep no more of attempts than that they can't start again."""
        with self._write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO forgotten SELECT task, attempt, digest, ? FROM attempt"
                " WHERE task = ? AND attempt = ? AND acknowledged",
                [(time.time(), *key) for key in keys],
            )
            for table in ("attempt", "wish"):
                db.execute(
                    f"DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM forgotten f"  # noqa: S608  no input
                    f" WHERE f.task = {table}.task AND f.attempt = {table}.attempt)"
                )

    def forget_wholly(self, before: float) -> None:
        """Drop what is kept for a while after all else: memories, refused reports, and intents for attempts
        that never came."""
        with self._write() as db:
            db.execute("DELETE FROM forgotten WHERE at < ?", (before,))
            db.execute("DELETE FROM dead_letter WHERE at < ?", (before,))
            db.execute(
                "DELETE FROM wish WHERE at < ? AND NOT EXISTS"
                " (SELECT 1 FROM attempt a WHERE a.task = wish.task AND a.attempt = wish.attempt)",
                (before,),
            )

    def clock(self) -> str:
        """What ``keep_clock`` was told last; empty before the first time."""
        return self._meta("clock")

    def keep_clock(self, text: str) -> None:
        with self._write() as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (text,))


def wish_of(order: IntentOrder, *, at: float, at_boot: float, boot_id: str) -> Wish:
    """An intent as it is journaled at a time."""
    return Wish(
        version=order.version,
        intent=order.intent,
        by=order.by,
        grace=order.grace,
        at=at,
        at_boot=at_boot,
        boot_id=boot_id,
    )


def _attempt(row: tuple[Any, ...]) -> Attempt:
    spec, cluster, phase, state, boot_id, carried, handle, version, intent, *rest = row
    return Attempt(
        spec=AttemptSpec.model_validate_json(spec),
        cluster=cluster,
        phase=Phase(phase),
        state=State(state),
        boot_id=boot_id,
        carried=carried,
        handle=json.loads(handle),
        wish=None if version is None else Wish(version, Intent(intent), *rest),
    )
