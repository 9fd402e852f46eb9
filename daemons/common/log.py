"""Structured daemon logs: one event a line, readable on a terminal, JSON under systemd."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

_FACTS = "hakuriver_facts"


class Log:
    """Events of one part of a daemon: ``log.info("task_started", task=7, node="n1")``."""

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(f"hakuriver.{part}")

    def info(self, event: str, **facts: Any) -> None:
        self._logger.info(event, extra={_FACTS: facts})

    def warning(self, event: str, **facts: Any) -> None:
        self._logger.warning(event, extra={_FACTS: facts})

    def error(self, event: str, **facts: Any) -> None:
        self._logger.error(event, extra={_FACTS: facts})

    def unexpected(self, event: str, error: BaseException, **facts: Any) -> None:
        """An error nobody expected, with its traceback: for people who read logs, never for clients."""
        self._logger.error(event, exc_info=error, extra={_FACTS: facts})


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = getattr(record, _FACTS, {})
        at = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if self._json:
            line = {
                "time": at,
                "level": record.levelname.lower(),
                "part": record.name.removeprefix("hakuriver."),
            }
            line |= {"event": record.getMessage(), **facts, **({"traceback": trace} if trace else {})}
            return json.dumps(line, default=str)
        shown = " ".join(f"{key}={_readable(value)}" for key, value in facts.items())
        part = record.name.removeprefix("hakuriver.")
        head = f"{at} {record.levelname:<7} {part:<10} {record.getMessage()} {shown}".rstrip()
        return f"{head}\n{trace}" if trace else head


def _readable(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text.isprintable() or " " in text or not text else text


def configure() -> None:
    """Send all daemon logs to stderr, in the form that fits who reads it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger("hakuriver")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
