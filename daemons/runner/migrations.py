"""The shape of the journal, version after version; docs/architecture.md says what it is for."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE attempt (
        task INTEGER NOT NULL, attempt INTEGER NOT NULL, digest TEXT NOT NULL, cluster TEXT NOT NULL,
        spec TEXT NOT NULL, phase TEXT NOT NULL, state TEXT NOT NULL, boot_id TEXT NOT NULL DEFAULT '',
        handle TEXT NOT NULL DEFAULT '{}', carried INTEGER NOT NULL DEFAULT 0,
        sequence INTEGER NOT NULL DEFAULT 0, final INTEGER, acknowledged INTEGER NOT NULL DEFAULT 0,
        copied INTEGER NOT NULL DEFAULT 0, cleaned INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (task, attempt)
    ) WITHOUT ROWID;
    CREATE INDEX attempt_open ON attempt (acknowledged) WHERE acknowledged = 0;
    CREATE INDEX attempt_uncopied ON attempt (copied) WHERE copied = 0;
    CREATE INDEX attempt_uncleaned ON attempt (cleaned) WHERE cleaned = 0;
    CREATE TABLE wish (
        task INTEGER NOT NULL, attempt INTEGER NOT NULL, version INTEGER NOT NULL, intent TEXT NOT NULL,
        by TEXT NOT NULL, grace REAL NOT NULL, at REAL NOT NULL, at_boot REAL NOT NULL, boot_id TEXT NOT NULL,
        PRIMARY KEY (task, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, task INTEGER NOT NULL, attempt INTEGER NOT NULL,
        sequence INTEGER NOT NULL, report TEXT NOT NULL, UNIQUE (task, attempt, sequence)
    );
    INSERT INTO meta VALUES ('version', '0'), ('epoch', '0'), ('cluster', '');
    """,
    """
    ALTER TABLE attempt ADD COLUMN last_report TEXT;
    ALTER TABLE attempt ADD COLUMN ended REAL;
    UPDATE attempt SET ended = strftime('%s', 'now') WHERE phase = 'ended';
    UPDATE attempt SET last_report = (
        SELECT report FROM outbox o
        WHERE o.task = attempt.task AND o.attempt = attempt.attempt AND o.sequence = attempt.final
    ) WHERE phase = 'ended';
    CREATE INDEX attempt_ended ON attempt (ended) WHERE ended IS NOT NULL;
    CREATE TABLE forgotten (
        task INTEGER NOT NULL, attempt INTEGER NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (task, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE dead_letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, task INTEGER NOT NULL,
        attempt INTEGER NOT NULL, sequence INTEGER NOT NULL, message TEXT NOT NULL, report TEXT NOT NULL
    );
    INSERT INTO meta SELECT 'high_water', coalesce(max(task), 0) FROM attempt;
    INSERT INTO meta VALUES ('clock', '');
    """,
    """
    ALTER TABLE attempt ADD COLUMN cpus TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE attempt ADD COLUMN clock TEXT;
    """,
)
