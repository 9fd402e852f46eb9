"""What the runner must not forget: orders, intents, ends, and reports that wait for their acknowledgement.

Every write is durable before it returns. ``version`` grows with every write.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, ParamSpec, TypeVar

from daemons.runner.journalfile import JournalFile
from daemons.runner.model import Attempt, Handle, Key, Phase, Wish
from daemons.runner.retelling import Remembered, told_again, told_of_forgotten
from hakuriver.errors import Conflict
from hakuriver.lifecycle import Intent, State
from hakuriver.nodewire import AttemptOrder, AttemptSpec, IntentOrder, Report, ReportResult

P = ParamSpec("P")
T = TypeVar("T")

_SELECT = """
    SELECT a.spec, a.cluster, a.phase, a.state, a.boot_id, a.carried, a.handle, a.cpus, a.clock,
           w.version, w.intent, w.by, w.grace, w.at, w.at_boot, w.boot_id
    FROM attempt a LEFT JOIN wish w USING (task, attempt)
"""


class Journal(JournalFile):
    """Every method runs in the journal's own thread; writes raise StorageFull and leave nothing half done."""

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
        life of that cluster all that is remembered is told again: its host may have forgotten it.
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
                    self._tell_again(db)

    def _tell_again(self, db: sqlite3.Connection) -> None:
        """The newest report of every attempt, with what it was given: the host may not know that one."""
        db.execute("UPDATE attempt SET sequence = max(sequence, 1), acknowledged = 0")
        known = db.execute(
            "SELECT task, attempt, sequence, state, spec, last_report FROM attempt ORDER BY 1, 2"
        )
        reports = [told_again(Remembered(*row)) for row in known]
        past = db.execute("SELECT task, attempt FROM forgotten ORDER BY 1, 2")
        reports += [told_of_forgotten((row[0], row[1])) for row in past]
        db.executemany(
            "INSERT INTO outbox (task, attempt, sequence, report) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (task, attempt, sequence) DO UPDATE SET report = excluded.report",
            [(each.task, each.attempt, each.sequence, each.model_dump_json()) for each in reports],
        )

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
        """The version, and every attempt without an acknowledged final report, or with any that waits."""
        rows = self._db.execute(
            "SELECT task, attempt FROM attempt WHERE acknowledged = 0"
            " UNION SELECT task, attempt FROM outbox ORDER BY 1, 2"
        )
        return int(self._meta("version")), [(row[0], row[1]) for row in rows]

    def save(
        self,
        key: Key,
        *,
        phase: Phase,
        boot_id: str,
        handle: Handle,
        cpus: list[int],
        clock: dict[str, Any] | None,
    ) -> None:
        """Store how far an attempt is, where to find it, and what it is bound to."""
        with self._write() as db:
            db.execute(
                "UPDATE attempt SET phase = ?, boot_id = ?, handle = ? WHERE task = ? AND attempt = ?",
                (phase, boot_id, json.dumps(handle), *key),
            )
            self._keep(db, key, cpus, clock)

    def keep(self, key: Key, *, cpus: list[int], clock: dict[str, Any] | None) -> None:
        """Store the CPUs of an attempt, and how long it ran where nobody else knows."""
        with self._write() as db:
            self._keep(db, key, cpus, clock)

    def _keep(self, db: sqlite3.Connection, key: Key, cpus: list[int], clock: dict[str, Any] | None) -> None:
        db.execute(
            "UPDATE attempt SET cpus = ?, clock = ? WHERE task = ? AND attempt = ?",
            (json.dumps(cpus), None if clock is None else json.dumps(clock), *key),
        )

    def report(self, key: Key, phase: Phase, facts: dict[str, Any]) -> None:
        """Store a new phase together with the report about it; ``facts`` are the fields of a Report."""
        with self._write() as db:
            db.execute("UPDATE attempt SET sequence = sequence + 1 WHERE task = ? AND attempt = ?", key)
            sequence, last = db.execute(
                "SELECT sequence, last_report FROM attempt WHERE task = ? AND attempt = ?", key
            ).fetchone()
            if last is not None and facts.get("started_at") is None:
                facts = facts | {"started_at": json.loads(last)["started_at"]}
            report = Report(task=key[0], attempt=key[1], sequence=sequence, **facts)
            text = report.model_dump_json()
            end = (sequence, time.time()) if phase is Phase.ENDED else (None, None)
            db.execute(
                "UPDATE attempt SET phase = ?, state = ?, carried = coalesce(?, carried), last_report = ?,"
                " final = ?, ended = ? WHERE task = ? AND attempt = ?",
                (phase, report.state, report.intent_version, text, *end, *key),
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

    def forgotten_at(self, key: Key) -> float | None:
        """When an attempt was pruned, as a time of day; None for any other."""
        row = self._db.execute("SELECT at FROM forgotten WHERE task = ? AND attempt = ?", key).fetchone()
        return None if row is None else float(row[0])

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
    spec, cluster, phase, state, boot_id, carried, handle, cpus, clock, version, intent, *rest = row
    return Attempt(
        spec=AttemptSpec.model_validate_json(spec),
        cluster=cluster,
        phase=Phase(phase),
        state=State(state),
        boot_id=boot_id,
        carried=carried,
        handle=json.loads(handle),
        cpus=json.loads(cpus),
        clock=None if clock is None else json.loads(clock),
        wish=None if version is None else Wish(version, Intent(intent), *rest),
    )
